import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, costs, ratioToFastest, runRace } from '../race/race.ts'
import type { Scenario } from '../scenario.ts'

const peers = ['graphile-worker', 'pg-boss'] as const

export const claim: Scenario<RaceOptions> = {
  name: 'claim',
  does: 'Drains an inbox with handlers that do nothing, one message each, beside graphile-worker and pg-boss.',
  addOptions: (command) => addRaceOptions(command, { messages: 200_000 }),
  run(stage, options) {
    const task = taskOf(options, { keys: 'none' })
    return runRace(stage, {
      ...options,
      runners: ['twinbox', ...peers].map((name) => ({ name, entrant: `${name} claim`, task })),
      bound: (laps) =>
        `processor time, which both cores share with the server: ${costs(laps, 'twinbox')}, where graphile-worker takes ${costs(laps, 'graphile-worker')}. In the server each message is leased and deleted, with a fence each time; in the client much is garbage collection and parsing the payload.`,
      goals: (laps) => [atLeast('the fastest peer', ratioToFastest(laps, 'twinbox', peers), 1.5)],
    })
  },
}
