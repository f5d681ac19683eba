import { rounded, spread } from '../figures.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, atMost, ratio, runRace } from '../race/race.ts'
import type { Sheet } from '../race/tally.ts'
import type { Scenario } from '../scenario.ts'

const depths = [10_000, 100_000, 1_000_000] as const
const chunk = 500
const column = 'p99 of 500, ms'

export const backlog: Scenario<RaceOptions> = {
  name: 'backlog',
  does: 'Claims and relays with 10,000, 100,000 and a million messages waiting.',
  addOptions: (command) => addRaceOptions(command, { messages: depths[2], processes: 1 }),
  run(stage, options) {
    const task = taskOf(options, { keys: 'none' })
    const waiting = depths.map((depth) => Math.min(depth, task.messages))
    const upTo = Math.min(9000, Math.floor(waiting[0]! * 0.9))
    const shallow = nameOf(0)
    const runners = (['claim', 'relay'] as const).flatMap((what) =>
      waiting.map((messages, index) => ({
        name: `${what} ${nameOf(index)}`,
        entrant: `twinbox ${what}`,
        task: { ...task, messages, upTo },
      })),
    )
    return runRace(stage, {
      ...options,
      runners,
      hooks: () => ({ extra: (sheets) => ({ [column]: chunkP99(sheets) }) }),
      extras: [column],
      goals: (laps) =>
        (['claim', 'relay'] as const).flatMap((what) =>
          [1, 2].flatMap((index) => {
            const deep = `${what} ${nameOf(index)}`
            const base = `${what} ${shallow}`
            return [
              atLeast(`${deep}: its rate at ${shallow}`, ratio(laps, deep, base), 0.9),
              atMost(
                `${deep}: its p99 at ${shallow}`,
                ratio(laps, deep, base, ({ extra }) => extra[column]!),
                1.5,
              ),
            ]
          }),
        ),
      bound: 'see the table; each lap is short.',
      remarks: [
        `Each lap ends when ${upTo} are done; the p99 is that of the times that ${chunk} in a row took.`,
      ],
    })
  },
}

const nameOf = (index: number): string => ['10 k', '100 k', '1 M'][index]!

function chunkP99(sheets: readonly Sheet[]): number {
  const ats = sheets.flatMap((sheet) => [...sheet.ats]).toSorted((a, b) => a - b)
  const times: number[] = []
  for (let from = 0; from + chunk < ats.length; from += chunk) times.push(ats[from + chunk]! - ats[from]!)
  return rounded(spread(times).p99 ?? 0)
}
