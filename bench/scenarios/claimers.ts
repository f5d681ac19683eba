import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, costs, ratio, runRace } from '../race/race.ts'
import type { Scenario } from '../scenario.ts'

const counts = [1, 4, 16, 64] as const
/** Of two laps of the same, one is that much slower than the other now and then. */
const noise = 0.95

export const claimers: Scenario<RaceOptions> = {
  name: 'claimers',
  does: 'Drains an inbox with 1, 4, 16 and 64 claimers in one process.',
  addOptions: (command) => addRaceOptions(command, { messages: 200_000 }),
  run(stage, options) {
    const task = taskOf(options, { keys: 'none' })
    const names = counts.map((count) => `${count} claimers`)
    return runRace(stage, {
      ...options,
      runners: counts.map((count, index) => ({
        name: names[index]!,
        entrant: 'twinbox claim',
        task: {
          ...task,
          processes: 1,
          claimers: count,
        },
      })),
      goals: (laps) =>
        names
          .slice(1)
          .map((name, index) =>
            atLeast(`${name}: ${names[index]!}`, ratio(laps, name, names[index]!), noise),
          ),
      bound: (laps) =>
        `two cores, which one claimer and its server keep busy: no further one brings a core. One takes ${costs(laps, names[0]!)}; ${names[3]!} take ${costs(laps, names[3]!)}.`,
      remarks: [
        `They share the connections of their process; starting is no part of a lap. "Never falls" is judged at ${noise}, for noise.`,
      ],
    })
  },
}
