import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, ratioToFastest, runRace } from '../race/race.ts'
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
      bound:
        'processor time, which both cores share with the server: 20 us there and 26 us in the client, where graphile-worker takes 24 and 31. Twice its rate would be 28 us in all. In the server each message is locked, updated and deleted, with a fence each time; in the client a quarter is garbage collection and a tenth parsing the payload.',
      goals: (laps) => [atLeast('the fastest peer', ratioToFastest(laps, 'twinbox', peers), 2)],
    })
  },
}
