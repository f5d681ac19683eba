import pg from 'pg'
import type { Task } from '../race/entrant.ts'
import type { Lap, LapHooks, Runner } from '../race/lap.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atMost, ratio, runRace, type Goal, type Laps } from '../race/race.ts'
import type { Scenario } from '../scenario.ts'

/** Something of which there is more and more. */
export interface Axis {
  /** In the plural, as in "keys". */
  readonly name: string
  /** The others are held against the first of these. */
  readonly steps: readonly string[]
  /** Those that are shown, and no goal is judged of. */
  readonly shown?: readonly string[]
}

export const axes = {
  waiting: { name: 'waiting', steps: ['10 k waiting', '100 k waiting', '1 M waiting'] },
  keys: { name: 'keys', steps: ['100 k keys', '100 keys', 'one key'], shown: ['one key'] },
  consumers: { name: 'consumers', steps: ['1 consumer', '10 consumers', '100 consumers'] },
} as const satisfies Record<string, Axis>

const depths = [10_000, 100_000, 1_000_000] as const
const keyCounts = [100_000, 100, 1] as const
const consumerCounts = [1, 10, 100] as const
const deliveries = 20_000
const taken = 9000
const flat = 1.1

export const measures = ['buffers', 'statements per 1,000'] as const

export const growth: Scenario<RaceOptions> = {
  name: 'growth',
  does: 'Counts what a message costs the server in buffers and statements, with more and more waiting, keys and consumers.',
  addOptions: (command) => addRaceOptions(command, { messages: depths[2], processes: 1, batchSize: 100 }),
  run(stage, options) {
    const task = taskOf(options, { keys: 'none' })
    const most = (count: number): number => Math.min(count, task.messages)
    const upTo = Math.min(taken, Math.floor(most(depths[0]) * 0.9))
    const claims = (name: string, of: Partial<Task>): Runner => ({
      name,
      entrant: 'twinbox claim',
      task: { ...task, upTo, ...of },
    })
    const runners: Runner[] = [
      ...axes.waiting.steps.map((name, index) => claims(name, { messages: most(depths[index]!) })),
      ...axes.keys.steps.map((name, index) =>
        claims(name, {
          ...{ keys: 'many', keyCount: keyCounts[index]!, messages: most(keyCounts[0]) },
          // One after the other: as many as elsewhere would take half a minute.
          ...(keyCounts[index] === 1 ? { upTo: Math.ceil(upTo / 4) } : {}),
        }),
      ),
      ...axes.consumers.steps.map((name, index) => ({
        name,
        entrant: 'twinbox fan-out',
        task: {
          ...task,
          consumers: consumerCounts[index]!,
          messages: Math.max(4, most(deliveries) / consumerCounts[index]!),
        },
      })),
    ]
    return runRace(stage, {
      ...options,
      runners,
      hooks: ({ task: { messages, consumers = 0 } }): LapHooks => ({
        ...(consumers === 0 ? {} : { around: async ({ url }) => arrived(url, messages * consumers) }),
        counted: ({ buffers, commits }) => ({
          buffers: buffers / Math.max(1, consumers),
          'statements per 1,000': (commits * 1000) / Math.max(1, consumers),
        }),
      }),
      extras: measures,
      goals: (laps) => Object.values(axes).flatMap((axis: Axis) => goalsOf(axis, laps)),
      bound: (laps) =>
        `the index of a larger table, which is a level deeper, and keys of which only one message each can be handled at a time. ${told(laps)}`,
      remarks: [
        `Each lap of claims ends when ${upTo} are done (of one key ${Math.ceil(upTo / 4)}), in batches of ${task.batchSize}; the laps with consumers move ${most(deliveries)} ` +
          'messages in all into inboxes, and their figures are per message in an inbox. Statements are transactions, of which each ' +
          'statement of a claimer is one. What starting takes is part of both.',
      ],
    })
  },
}

function goalsOf({ steps, shown = [] }: Axis, laps: Laps): Goal[] {
  return steps
    .slice(1)
    .filter((step) => !shown.includes(step))
    .flatMap((step) =>
      measures.map((of) => atMost(`${of}, ${step}: ${steps[0]!}`, growthOf(laps, of, step, steps[0]!), flat)),
    )
}

const growthOf = (laps: Laps, of: (typeof measures)[number], step: string, first: string) =>
  ratio(laps, step, first, ({ extra }: Lap) => extra[of]!)

/** How each axis bends, in words. */
const told = (laps: Laps): string =>
  Object.values(axes)
    .flatMap(({ steps }: Axis) =>
      steps
        .slice(1)
        .map(
          (step) =>
            `${step}: ${measures.map((of) => `${growthOf(laps, of, step, steps[0]!).median} x the ${of} of ${steps[0]!}`).join(', ')}.`,
        ),
    )
    .join(' ')

/** Looks whether everybody got everything. */
async function arrived(url: string, wanted: number): Promise<() => Promise<readonly string[]>> {
  return async () => {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    const { rows } = await client.query<{ there: number }>('select count(*)::int as there from twinbox.inbox')
    await client.end()
    const { there } = rows[0]!
    return there === wanted ? [] : [`${there} of ${wanted} are in the inboxes`]
  }
}
