import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, ratio, runRace } from '../race/race.ts'
import type { Scenario } from '../scenario.ts'

const counts = [1, 4, 16, 64] as const
const processesMax = 4
/** Of two laps of the same, one is that much slower than the other now and then. */
const noise = 0.95

export const claimers: Scenario<RaceOptions> = {
  name: 'claimers',
  does: 'Drains an inbox with 1, 4, 16 and 64 claimers, in up to 4 processes.',
  addOptions: (command) => addRaceOptions(command, { messages: 600_000 }),
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
          processes: Math.min(count, processesMax),
          claimers: Math.ceil(count / processesMax),
        },
      })),
      goals: (laps) =>
        names
          .slice(1)
          .map((name, index) =>
            atLeast(`${name}: ${names[index]!}`, ratio(laps, name, names[index]!), noise),
          ),
      bound:
        'two cores, which one claimer and its server keep busy: no further one brings a core. Each opens a session with a process of the server, and plans its statements there: 45 ms of the client and 50 ms of the server, which for 64 of them are a tenth of the lap; then each beats, and watches the others.',
      remarks: [
        `Claimers of one process share its connections. "Never falls" is judged at ${noise}, for noise.`,
      ],
    })
  },
}
