import { rounded, spread } from '../figures.ts'
import type { LapHooks } from '../race/lap.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, atMost, costs, ratio, runRace } from '../race/race.ts'
import type { Sheet } from '../race/tally.ts'
import { message } from '../race/messages.ts'
import type { Scenario, Stage } from '../scenario.ts'

/** One key at a time is as fast as the server answers: with the whole number the hot key would take minutes. */
const hotShare = 0.05
const graphileShare = 0.05
const beside99 = 'in its lane p99 ms'

export const claimKeyed: Scenario<RaceOptions> = {
  name: 'claim-keyed',
  does: 'Drains an inbox of 10,000 keys, and one with nine tenths in one key, beside the same without keys.',
  addOptions: (command) => addRaceOptions(command, { messages: 100_000 }),
  async run(stage, options) {
    const keyed = taskOf(options, { keys: 'many' })
    const neighbours = await inHotLane(stage)
    const few = (share: number): number => Math.max(100, Math.round(keyed.messages * share))
    const beside = { ...keyed, messages: few(hotShare) }
    return runRace(stage, {
      ...options,
      runners: [
        { name: 'twinbox', entrant: 'twinbox claim', task: keyed },
        { name: 'without keys', entrant: 'twinbox claim', task: { ...keyed, keys: 'none' } },
        { name: 'with a hot key', entrant: 'twinbox claim', task: { ...beside, keys: 'hot' } },
        { name: 'without a hot key', entrant: 'twinbox claim', task: beside },
        {
          name: 'graphile-worker',
          entrant: 'graphile-worker claim',
          task: { ...keyed, messages: few(graphileShare) },
        },
      ],
      hooks: ({ task }): LapHooks => ({
        extra: (sheets, beganAt) => ({
          ...cold(sheets, beganAt),
          [beside99]: rounded(
            spread(waits(sheets, beganAt, (n) => neighbours.has(message(n, task).key!))).p99 ?? 0,
          ),
        }),
      }),
      extras: ['cold p95 ms', 'cold p99 ms', beside99],
      goals: (laps) => [
        atLeast('the same without keys', ratio(laps, 'twinbox', 'without keys'), 1),
        atMost(
          "the cold keys' p99 without a hot key",
          ratio(laps, 'with a hot key', 'without a hot key', ({ extra }) => extra['cold p99 ms']!),
          1.2,
        ),
        atMost(
          'the same of the cold keys in its lane',
          ratio(laps, 'with a hot key', 'without a hot key', ({ extra }) => extra[beside99]!),
          1.2,
        ),
      ],
      bound: (laps) =>
        `that a key's next message waits until the one before is completed, a round trip each: ${costs(laps, 'twinbox')}, without keys ${costs(laps, 'without keys')}.`,
      remarks: [
        `Beside a hot key ${beside.messages} messages were drained, ${few(graphileShare)} by graphile-worker, whose queues ` +
          'are its order per key.',
        'Cold: every tenth message, which has a key of 10,000 in all laps; how long after the lap began it was handled.',
      ],
    })
  },
}

export const hotKey: Scenario<RaceOptions> = {
  name: 'hot-key',
  does: 'Drains an inbox with nine tenths in one key: with a window and without, in a transaction each and in runs of 16.',
  addOptions: (command) => addRaceOptions(command, { messages: 10_000 }),
  run(stage, options) {
    const outside = taskOf(options, { keys: 'hot', handler: 'async' })
    const inside = { ...outside, handler: 'insert' as const }
    const claimer = (name: string, task: typeof outside) => ({ name, entrant: 'twinbox claim', task })
    return runRace(stage, {
      ...options,
      runners: [
        claimer('a window of 100', { ...outside, keyWindow: 100 }),
        claimer('a window of 1', outside),
        claimer('runs of 16', { ...inside, runSize: 16 }),
        claimer('a transaction each', inside),
      ],
      hooks: (): LapHooks => ({ extra: cold }),
      extras: ['cold p95 ms', 'cold p99 ms'],
      goals: (laps) => [
        atLeast('a window of 100, one of 1', ratio(laps, 'a window of 100', 'a window of 1'), 8),
        atLeast('runs of 16, a transaction each', ratio(laps, 'runs of 16', 'a transaction each'), 3),
      ],
      bound: "that a lane gives some 100 of a key's messages at a time, and a run waits for its commit.",
    })
  },
}

/** The cold keys that share the lane of the hot one. */
async function inHotLane({ scratch }: Stage): Promise<ReadonlySet<string>> {
  const rows = await scratch.query<{ key: string }>(
    `select 'key-' || i as key from generate_series(0, 9999) as i
    where twinbox.lane_of('key-' || i) = twinbox.lane_of('hot')`,
  )
  return new Set(rows.map(({ key }) => key))
}

/** How long after the beginning of the lap those of the cold messages were handled that are asked for. */
const waits = (sheets: readonly Sheet[], beganAt: number, wanted: (n: number) => boolean): number[] =>
  sheets.flatMap(({ ns, ats }) =>
    [...ns].flatMap((n, index) => (n % 10 === 0 && wanted(n) ? [Math.max(0, ats[index]! - beganAt)] : [])),
  )

function cold(sheets: readonly Sheet[], beganAt: number): Record<string, number> {
  const { p95, p99 } = spread(waits(sheets, beganAt, () => true))
  return { 'cold p95 ms': rounded(p95 ?? 0), 'cold p99 ms': rounded(p99 ?? 0) }
}
