import pg from 'pg'
import { rounded } from '../figures.ts'
import { steadyCount } from '../entrants/steady.ts'
import type { LapHooks } from '../race/lap.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, ratio, runRace } from '../race/race.ts'
import type { Task } from '../race/entrant.ts'
import type { Sheet } from '../race/tally.ts'
import { count, type Scenario, type Stage } from '../scenario.ts'

interface Options extends RaceOptions {
  readonly seconds: number
  readonly rate: number
}

const holders = ['nobody', 'reader', 'writer', 'other database'] as const
type Holder = (typeof holders)[number]
const column = 'drain per s'

export const heldXmin: Scenario<Options> = {
  name: 'held-xmin',
  does: 'Works steadily and then drains, while a transaction stays open: a reader, a writer, a writer elsewhere.',
  addOptions(command) {
    addRaceOptions(command, { messages: 100_000 })
    command
      .option('--seconds <number>', 'how long before the drain', count(1, 3600), 10)
      .option('--rate <number>', 'messages per second until then', count(1, 10_000), 800)
  },
  run(stage, options) {
    const { quick, seconds, rate } = options
    const base = taskOf(options, {
      keys: 'none',
      processes: 2,
      perSecond: rate,
      steadyMs: quick === true ? 1000 : seconds * 1000,
    })
    const task: Task = { ...base, messages: base.messages + steadyCount(base) }
    const name = (who: string, holder: Holder): string => (holder === 'nobody' ? who : `${who}, ${holder}`)
    const runners = ['twinbox', 'graphile-worker'].flatMap((who) =>
      holders.map((holder) => ({ name: name(who, holder), entrant: `${who} steady`, task, holder })),
    )
    const holderOf = new Map(runners.map((runner) => [runner.name, runner.holder]))
    return runRace(stage, {
      ...options,
      runners,
      hooks: (runner): LapHooks => ({
        around: ({ url }) => hold(stage, url, holderOf.get(runner.name)!),
        extra: (sheets) => ({ [column]: drainRate(sheets, task) }),
      }),
      extras: [column],
      goals: (laps) =>
        holders.slice(1).map((holder) =>
          atLeast(
            `${holder}: the drain without it`,
            ratio(laps, name('twinbox', holder), 'twinbox', ({ extra }) => extra[column]!),
            0.95,
          ),
        ),
      bound:
        'what is dead cannot be cleared away, so that what arrives goes to new pages and scans pass what was handled in the last second: a tenth more time of the server per message, and no more after a minute than after ten seconds. Without anybody the drain differs by as much from round to round.',
      remarks: [`${rate}/s for ${base.steadyMs! / 1000} s, then ${base.messages} at once.`],
    })
  },
}

/** Leaves a transaction open, idle at the client: a statement that runs would be another thing. */
async function hold(stage: Stage, url: string, holder: Holder): Promise<() => Promise<readonly string[]>> {
  if (holder === 'nobody') return async () => []
  const client = new pg.Client({ connectionString: holder === 'other database' ? stage.scratch.url : url })
  client.on('error', () => {})
  await client.connect()
  await client.query(holder === 'reader' ? 'begin isolation level repeatable read' : 'begin')
  await client.query(holder === 'reader' ? 'select 1 from pg_class limit 1' : 'select pg_current_xact_id()')
  return async () => {
    const open = await client.query('select 1').then(
      () => true,
      () => false,
    )
    await client.end()
    return open ? [] : ['the open transaction did not stay open']
  }
}

/** From the first to the last of those that came at once. */
function drainRate(sheets: readonly Sheet[], task: Task): number {
  const steady = steadyCount(task)
  const ats = sheets
    .flatMap(({ ns, ats: all }) => [...ns].flatMap((n, index) => (n >= steady ? [all[index]!] : [])))
    .toSorted((a, b) => a - b)
  return rounded((ats.length / (ats.at(-1)! - ats[0]!)) * 1000, 0)
}
