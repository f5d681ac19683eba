import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, costs, lessNoise, ratio, ratioToFastest, runRace } from '../race/race.ts'
import type { Scenario } from '../scenario.ts'

const peers = ['graphile-worker', 'pg-boss'] as const

export const publishBulk: Scenario<RaceOptions> = {
  name: 'publish-bulk',
  does: 'Publishes many messages per call, beside graphile-worker, pg-boss and a bare insert of the same rows.',
  addOptions: (command) => addRaceOptions(command, { messages: 100_000, concurrency: 1, batchSize: 1000 }),
  run(stage, options) {
    const task = taskOf(options, { keys: 'none', concurrency: 1 })
    return runRace(stage, {
      ...options,
      runners: ['twinbox', ...peers, 'bare'].map((name) => ({ name, entrant: `${name} publish`, task })),
      bound: (laps) =>
        `the client, which checks each message: ${costs(laps, 'twinbox')}, where graphile-worker takes ${costs(laps, 'graphile-worker')} and the bare insert of the same rows ${costs(laps, 'bare')}.`,
      goals: (laps) => [
        atLeast('the fastest peer', ratioToFastest(laps, 'twinbox', peers), lessNoise(1.16)),
        atLeast('a bare insert', ratio(laps, 'twinbox', 'bare'), 0.8),
      ],
    })
  },
}

export const publishSingle: Scenario<RaceOptions> = {
  name: 'publish-single',
  does: 'Publishes one message per business transaction, beside the same transaction with a bare insert.',
  addOptions: (command) =>
    addRaceOptions(command, { messages: 20_000, processes: 1, concurrency: 16, batchSize: 1 }),
  run(stage, options) {
    const task = taskOf(options, { keys: 'none' })
    return runRace(stage, {
      ...options,
      runners: ['twinbox', 'bare'].map((name) => ({ name, entrant: `${name} publish-single`, task })),
      bound:
        'four round trips and a commit, alike for both; what Twinbox adds is the check of the payload and a subquery that gives the transaction its id before the row its place in the order.',
      goals: (laps) => [atLeast('a bare insert', ratio(laps, 'twinbox', 'bare'), lessNoise(0.91))],
    })
  },
}
