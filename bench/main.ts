import { Command, CommanderError } from 'commander'
import { sentence } from '../src/terminal/failure.ts'
import { Crew } from './crew.ts'
import { commit, Scratch } from './scratch.ts'
import { claim } from './scenarios/claim.ts'
import { backlog } from './scenarios/backlog.ts'
import { claimers } from './scenarios/claimers.ts'
import { cost } from './scenarios/cost.ts'
import { dashboard } from './scenarios/dashboard.ts'
import { distance } from './scenarios/distance.ts'
import { handleTx, retryStorm } from './scenarios/handling.ts'
import { growth } from './scenarios/growth.ts'
import { heldXmin } from './scenarios/held-xmin.ts'
import { claimKeyed, hotKey } from './scenarios/keys.ts'
import { memory } from './scenarios/memory.ts'
import { latency } from './scenarios/latency.ts'
import { pipeline } from './scenarios/pipeline.ts'
import { publishBulk, publishSingle } from './scenarios/publishing.ts'
import { relayKafka, relayNull, relayRabbitmq } from './scenarios/relaying.ts'
import { calm } from './scenarios/calm.ts'
import { abandoned } from './scenarios/abandoned.ts'
import { strategies } from './scenarios/strategies.ts'
import { takeover } from './scenarios/takeover.ts'
import type { RaceOptions } from './race/options.ts'
import { readResults, writeReport, type LeftOut, type Reported } from './report.ts'
import { count, within, type Common, type Scenario, type Stage } from './scenario.ts'

const say = (text: string): void => void process.stderr.write(`${text}\n`)

const program = new Command('npm run bench --')
  .usage('<scenario> [options]')
  .description('Measures Twinbox with real processes on a real Postgres, and checks that nothing went wrong.')
  .helpCommand(false)
  .exitOverride()
  .showHelpAfterError('Run it with --help to see what there is.')
  .addHelpText(
    'after',
    `
Figures and tables go to standard output, progress to standard error. Exit codes: 0 valid and goals met, 1 not so,
2 used wrongly, 130 interrupted.

Examples:
  $ npm run bench -- takeover --help
  $ npm run bench -- takeover --kills 10 --only sigkill,sigterm --json | tail -n 1 | jq .faults`,
  )

let code = 0

function add<Options extends Common>(scenario: Scenario<Options>): void {
  const command = program
    .command(scenario.name)
    .description(scenario.does)
    .option(
      '-d, --database <url>',
      'a server to make a scratch database on (or TWINBOX_BENCH_DATABASE_URL, then DATABASE_URL; default: the one on ' +
        'port 5432, else an embedded one)',
    )
    .option('--json', 'end standard output with the result as one JSON object')
  scenario.addOptions(command)
  command
    .exitOverride()
    .showHelpAfterError(`Run it as ${scenario.name} --help to see what it takes.`)
    .action(async (options: Options) => {
      code = await play(scenario, options)
    })
}

/** Runs a scenario on a database of its own. Leaves no process and no database behind, whatever happens. */
async function play<Options extends Common>(
  scenario: Scenario<Options>,
  options: Options,
  heard: (result: object) => void = () => {},
): Promise<number> {
  const { json, database, ...settings } = options
  let interrupt: () => void = () => {}
  const interrupted = new Promise<130>((resolve) => (interrupt = () => resolve(130)))
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, interrupt)
  const scratch = await Scratch.open(database)
  const since = performance.now()
  const crew = new Crew(scratch)
  const cleanUp: Stage['cleanUp'] = []
  try {
    const { machine } = scratch
    say(`In the database ${scratch.name}`)
    process.stdout.write(
      `${machine.cores} x ${machine.cpu}, Node ${machine.node}, Postgres ${machine.postgres}, Twinbox ${machine.commit}\n` +
        `${scenario.name} ${JSON.stringify(settings)}\n`,
    )
    const running = scenario.run({ scratch, crew, cleanUp, say }, options)
    // When something else ends the race, what it still does fails for want of a database; nobody minds.
    running.catch(() => {})
    const outcome = await Promise.race([running, crew.failed, interrupted])
    if (outcome === 130) {
      say('Interrupted: ending all processes and dropping the database …')
      return 130
    }
    process.stdout.write(`${outcome.text}\n`)
    const seconds = Math.round((performance.now() - since) / 1000)
    const result = { scenario: scenario.name, ...outcome.result, seconds, settings, machine }
    heard(result)
    if (json === true) {
      process.stdout.write(`${JSON.stringify(result)}\n`)
    }
    return outcome.result.valid && outcome.result.met !== false ? 0 : 1
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, interrupt)
    await crew.disband()
    for (const undo of cleanUp.toReversed()) await undo()
    await scratch.drop()
  }
}

add(takeover)
add(strategies)
add(calm)
add(abandoned)
add(dashboard)

/** Those that the report shows, in its order. */
const races = [
  publishBulk,
  publishSingle,
  relayNull,
  relayRabbitmq,
  relayKafka,
  claim,
  claimKeyed,
  hotKey,
  handleTx,
  pipeline,
  latency,
  heldXmin,
  backlog,
  claimers,
  distance,
  growth,
  retryStorm,
  cost,
  memory,
] as readonly Scenario<RaceOptions>[]
for (const race of races) add(race)

program
  .command('report')
  .description(
    'Runs all races, and writes bench/results.json, its charts and docs/performance.md after each.',
  )
  .option('-d, --database <url>', 'as for a single race')
  .option('-r, --rounds <number>', 'how often each runs', count(1, 1000), 5)
  .option('--scale <number>', 'so much of the usual number of messages', within(0.001, 10), 1)
  .option('--only <scenarios>', 'some of them, for a look', (text) => text.split(','))
  .option('--renew <scenarios>', 'some of them; the others stay as they were measured', (text) =>
    text.split(','),
  )
  .option('--resume', 'go on after an interruption: without those measured at this commit, in as many rounds')
  .option('--quick', 'so few messages that it only shows that everything works')
  .exitOverride()
  .action(async ({ database, rounds, scale, only, renew, resume, quick }: ReportOptions) => {
    const wanted = only ?? renew
    const unknown = wanted?.find((name) => !races.some((race) => race.name === name))
    if (unknown !== undefined) throw new Error(`The report has no scenario "${unknown}".`)
    const isWanted = ({ name }: { readonly name: string }): boolean => wanted?.includes(name) ?? true
    const last = renew === undefined && resume !== true ? [] : readResults()
    const isDone = ({ valid, machine, settings }: Reported): boolean =>
      valid && machine.commit === commit() && settings['rounds'] === rounds
    const reported = last.filter((row) =>
      resume === true ? isDone(row) : renew?.includes(row.scenario) === false,
    )
    const kept = new Set(resume === true ? reported.map(({ scenario }) => scenario) : [])
    const leftOut: LeftOut[] = []
    const shown = `npm run bench -- report --rounds ${rounds}${scale === 1 ? '' : ` --scale ${scale}`}`
    const writes = quick !== true && only === undefined
    for (const race of races.filter((each) => isWanted(each) && !kept.has(each.name))) {
      const usual = new Command()
      race.addOptions(usual)
      const options = usual.parse([], { from: 'user' }).opts<RaceOptions>()
      // A latency is not measured in bulk, nor is memory.
      const messages =
        race === latency || race === memory
          ? options.messages
          : Math.max(10, Math.round(options.messages * scale))
      const given = { ...options, rounds, messages, ...(database === undefined ? {} : { database }) }
      try {
        const ended = await play(race, quick === true ? { ...given, quick } : given, (result) =>
          reported.push(result as unknown as Reported),
        )
        if (ended === 130) {
          code = 130
          return
        }
      } catch (error) {
        leftOut.push({ scenario: race.name, leftOut: sentence(error) })
        say(`${race.name} is left out: ${sentence(error)}`)
      }
      const place = ({ scenario }: Reported): number => races.findIndex(({ name }) => name === scenario)
      reported.sort((a, b) => place(a) - place(b))
      if (writes) await writeReport(reported, leftOut, shown)
    }
    if (!writes) say('Nothing is written with --quick or --only.')
    code = leftOut.length === 0 && reported.every(({ valid }) => valid) ? 0 : 1
  })

interface ReportOptions {
  readonly database?: string
  readonly rounds: number
  readonly scale: number
  readonly only?: readonly string[]
  readonly renew?: readonly string[]
  readonly resume?: true
  readonly quick?: true
}

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) code = error.exitCode === 0 ? 0 : 2
  else {
    code = 1
    say(sentence(error))
  }
}
// Not process.exit alone: what is still to be written to a pipe would be lost.
process.stdout.write('', () => process.exit(code))
