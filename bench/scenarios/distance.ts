import pg from 'pg'
import { rounded } from '../figures.ts'
import type { Task } from '../race/entrant.ts'
import type { LapHooks } from '../race/lap.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, median, ratio, runRace, type Goal, type Laps } from '../race/race.ts'
import type { Scenario, Stage } from '../scenario.ts'

/** Milliseconds to the server and back. */
const distances = [0, 2, 10, 40] as const

interface Work {
  readonly name: string
  /** Of all messages: what is done one by one is as fast as the server answers, and would take minutes. */
  readonly share: number
  readonly task: Partial<Task> & Pick<Task, 'keys'>
  /** The share of the rate without a distance that is to be left at each. */
  readonly goals?: readonly [number, number, number]
}

const works: readonly Work[] = [
  { name: 'claim', share: 1, task: { keys: 'none' }, goals: [0.9, 0.8, 0.6] },
  { name: 'handle-tx one by one', share: 0.05, task: { keys: 'none', handler: 'insert' } },
  {
    name: 'handle-tx in runs of 16',
    share: 0.1,
    task: { keys: 'none', handler: 'insert', runSize: 16 },
    goals: [0.9, 0.7, 0.4],
  },
  { name: 'hot key one by one', share: 0.004, task: { keys: 'hot', handler: 'async' } },
  {
    name: 'hot key, a window of 100',
    share: 0.1,
    task: { keys: 'hot', handler: 'async', keyWindow: 100 },
    goals: [0.9, 0.7, 0.4],
  },
]

export const distance: Scenario<RaceOptions> = {
  name: 'distance',
  does: 'Drains inboxes of a server that is 2, 10 and 40 ms away, there and back, beside one that is near.',
  addOptions: (command) => addRaceOptions(command, { messages: 100_000 }),
  async run(stage, options) {
    const networks = new Map<number, string>()
    for (const ms of distances) networks.set(ms, await stretch(stage, ms))
    const found: string[] = []
    for (const [ms, address] of networks) found.push(`${ms} ms: ${await roundTripMs(stage, address)}`)
    const runners = works.flatMap(({ name, share, task }) => {
      const whole = taskOf(options, task)
      const messages = Math.max(40, Math.round(whole.messages * share))
      return distances.map((ms) => ({
        name: nameOf(name, ms),
        entrant: 'twinbox claim',
        task: { ...whole, messages },
        ms,
      }))
    })
    const distanceOf = new Map(runners.map(({ name, ms }) => [name, ms]))
    return runRace(stage, {
      ...options,
      runners,
      // The near one is behind a proxy as well, which takes its share of the processors.
      hooks: ({ name }): LapHooks => ({
        by: (url) => throughAddress(url, networks.get(distanceOf.get(name)!)!),
      }),
      goals: (laps) => works.flatMap((work) => goalsOf(work, laps)),
      bound: (laps) =>
        `round trips that nothing else is done in. At 40 ms ${works
          .map(
            ({ name }) =>
              `${name} keeps ${ratio(laps, nameOf(name, 40), nameOf(name, 0)).median} of its rate`,
          )
          .join(', ')}. A handler's own statement is one each, in runs as well.`,
      remarks: [
        `Every worker reaches its server through a proxy in a process of its own; a statement that does nothing takes, in ms, at ${found.join(', ')}.`,
        'One by one is shown without a goal: a message there costs two round trips, whoever handles it.',
      ],
    })
  },
}

const nameOf = (work: string, ms: number): string => (ms === 0 ? work : `${work}, ${ms} ms`)

const goalsOf = ({ name, goals }: Work, laps: Laps): Goal[] =>
  (goals ?? []).map((bound, index) => {
    const far = nameOf(name, distances[index + 1]!)
    return atLeast(`${far}: its rate without`, ratio(laps, far, name), bound)
  })

/** @returns the address under which the server is that far away */
async function stretch({ crew }: Stage, ms: number): Promise<string> {
  const network = await crew.employ('distance', { roundTripMs: ms })
  return network.url!
}

const throughAddress = (url: string, address: string): string =>
  Object.assign(new URL(url), { host: address }).toString()

async function roundTripMs({ scratch }: Stage, address: string): Promise<number> {
  const client = new pg.Client({ connectionString: throughAddress(scratch.url, address) })
  await client.connect()
  const times: number[] = []
  for (let n = 0; n < 20; n++) {
    const since = performance.now()
    await client.query('select')
    times.push(performance.now() - since)
  }
  await client.end()
  return rounded(median(times), 2)
}
