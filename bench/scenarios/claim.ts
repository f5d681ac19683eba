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
        'processor time, which both cores share with the server. The statements alone take 5 us per message to claim and 3.4 us to delete (a tuple locked, updated and deleted, with a fence each time), the client 14 us, a quarter of it garbage collection and a tenth parsing the payload; graphile-worker takes 17 and 11 us.',
      goals: (laps) => [atLeast('the fastest peer', ratioToFastest(laps, 'twinbox', peers), 2)],
    })
  },
}
