import { setTimeout as sleep } from 'node:timers/promises'
import { dropAtBroker, fillBroker, prepareBroker } from '../entrants/brokers.ts'
import { rounded } from '../figures.ts'
import type { Task } from '../race/entrant.ts'
import { Grounds } from '../race/grounds.ts'
import { prepareGround, Racers, type LapHooks, type Runner } from '../race/lap.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { median, ratioOf, runRace, type Goal, type Laps } from '../race/race.ts'
import { startBroker } from '../race/services.ts'
import type { Scenario, Stage } from '../scenario.ts'

const mebibyte = 1024 * 1024
const goalBytes = 160_000_000
const column = 'MB above idle'
const workers = { relay: 'twinbox relay', receiver: 'twinbox receive', claimer: 'twinbox claim' } as const
const kinds = { JSON: 'large', bytes: 'large bytes' } as const

export const memory: Scenario<RaceOptions> = {
  name: 'memory',
  does: 'Works off 400 messages of a MiB each with a relay, a receiver of RabbitMQ and a claimer, and weighs the process.',
  addOptions: (command) => addRaceOptions(command, { messages: 400, processes: 1, concurrency: 10 }),
  async run(stage, options) {
    const remarks: string[] = []
    const usual = taskOf(options, { keys: 'none' })
    const task = { ...usual, messages: options.quick === true ? 16 : usual.messages }
    const wanted = (name: string): boolean => options.only === undefined || options.only.includes(name)
    const runners: Runner[] = []
    for (const [worker, entrant] of Object.entries(workers)) {
      const names = Object.keys(kinds).map((kind) => `${worker}, ${kind}`)
      if (!names.some(wanted)) continue
      const broker = worker === 'receiver' ? await startBroker(stage, 'rabbitmq') : null
      if (typeof broker === 'string') {
        remarks.push(`The receiver was left out: ${broker}`)
        continue
      }
      const way: Partial<Task> =
        broker === null ? {} : { broker: { kind: 'rabbitmq', address: broker.address } }
      for (const [kind, payload] of Object.entries(kinds))
        runners.push({ name: `${worker}, ${kind}`, entrant, task: { ...task, ...way, payload } })
    }
    const idle = await idleRss(stage, runners, options.quick === true ? 500 : 5000)
    return runRace(stage, {
      ...options,
      // A lap moves 400 MiB, and the most that a process had differs little.
      rounds: 1,
      runners,
      hooks: ({ entrant, task: of }): LapHooks => ({
        ...(of.broker === undefined ? {} : { around: ({ url }) => atBroker(url, of) }),
        used: ({ peakBytes }) => ({ [column]: rounded((peakBytes - idle.get(entrant)!) / 1e6) }),
      }),
      extras: [column],
      goals: (laps) => runners.map(({ name }) => goalOf(laps, name)),
      bound: (laps) =>
        `what is read at once, bounded in bytes, and what the garbage collector has not come to: ${worst(laps)}.`,
      remarks: [
        `The most that the process had while it worked off ${task.messages} messages of a MiB, less what the same worker has when idle ` +
          `(${[...idle].map(([entrant, bytes]) => `${entrant} ${Math.round(bytes / mebibyte)} MiB`).join(', ')}). No limit was set to its heap.`,
        ...remarks,
      ],
    })
  },
}

function goalOf(laps: Laps, name: string): Goal {
  const found = ratioOf(laps.get(name)!.map(({ extra }) => (extra[column]! * 1e6) / goalBytes))
  return {
    says: `${name}: at most ${goalBytes / 1e6} MB above an idle one (as a share of it)`,
    met: found.median <= 1,
    found,
  }
}

/** Who takes most. */
function worst(laps: Laps): string {
  const most = [...laps]
    .map(([name, each]) => ({ name, mb: median(each.map(({ extra }) => extra[column]!)) }))
    .toSorted((a, b) => b.mb - a.mb)[0]!
  return `most with ${most.name}, ${Math.round(most.mb)} MB`
}

async function atBroker(url: string, task: Task): Promise<() => Promise<readonly string[]>> {
  await prepareBroker(url, task)
  await fillBroker(url, task)
  return async () => {
    await dropAtBroker(url, task)
    return []
  }
}

/** What each kind of worker has in memory when there is nothing to do, by its entrant. */
async function idleRss(stage: Stage, runners: readonly Runner[], ms: number): Promise<Map<string, number>> {
  const found = new Map<string, number>()
  const grounds = new Grounds(stage.scratch)
  stage.cleanUp.push(() => grounds.dropAll())
  for (const runner of runners) {
    if (found.has(runner.entrant)) continue
    const empty: Runner = { ...runner, task: { ...runner.task, messages: 0 } }
    const ground = await prepareGround(grounds, empty)
    const racers = new Racers(stage)
    const undo = empty.task.broker === undefined ? null : await atBroker(ground.url, empty.task)
    try {
      await racers.hire(empty, ground.url)
      racers.tell({ type: 'go' })
      await sleep(ms)
      found.set(runner.entrant, (await racers.account()).rssBytes)
    } finally {
      await racers.dismiss()
      await undo?.()
      await grounds.drop(ground)
    }
  }
  return found
}
