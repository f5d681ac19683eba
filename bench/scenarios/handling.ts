import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, lessNoise, ratio, runRace } from '../race/race.ts'
import type { Scenario } from '../scenario.ts'

export const handleTx: Scenario<RaceOptions> = {
  name: 'handle-tx',
  does: 'Handles messages that each insert a row in their transaction, alone and in runs, beside BEGIN, INSERT, COMMIT alone.',
  addOptions: (command) => addRaceOptions(command, { messages: 40_000, concurrency: 8 }),
  run(stage, options) {
    const one = taskOf(options, { keys: 'none', handler: 'insert' })
    const many = { ...one, handler: 'insert-many' as const }
    return runRace(stage, {
      ...options,
      runners: [
        { name: 'twinbox', entrant: 'twinbox claim', task: one },
        { name: 'twinbox in runs', entrant: 'twinbox claim', task: { ...one, runSize: 16 } },
        { name: 'bare', entrant: 'bare handle', task: one },
        { name: 'twinbox in batches', entrant: 'twinbox claim', task: many },
        { name: 'bare in batches', entrant: 'bare handle', task: many },
      ],
      bound:
        'the claim. Of round trips there are two where the bare transaction has three, since completion, COMMIT and the next BEGIN go in one message; but each message is also claimed, looked for in its table and deleted there, checked against its fence and handed to a handler, in the client and in the server.',
      goals: (laps) => [
        atLeast('one by one, a bare transaction', ratio(laps, 'twinbox', 'bare'), 0.6),
        atLeast('in runs of 16, a bare transaction', ratio(laps, 'twinbox in runs', 'bare'), 1.5),
        atLeast('in batches, one by one', ratio(laps, 'twinbox in batches', 'twinbox'), 1),
      ],
      remarks: [
        'The bare transactions read no message, check no lease and complete nothing: batches of 100 rows by one ' +
          'insert reach what no inbox can.',
      ],
    })
  },
}

export const retryStorm: Scenario<RaceOptions> = {
  name: 'retry-storm',
  does: 'Drains an inbox in which every message fails twice, beside the same without failures.',
  addOptions: (command) => addRaceOptions(command, { messages: 50_000 }),
  run(stage, options) {
    const calm = taskOf(options, { keys: 'none' })
    const storm = { ...calm, failures: 2 }
    return runRace(stage, {
      ...options,
      runners: [
        { name: 'twinbox', entrant: 'twinbox claim', task: storm },
        { name: 'without failures', entrant: 'twinbox claim', task: calm },
        { name: 'graphile-worker', entrant: 'graphile-worker claim', task: storm },
      ],
      bound:
        'writes. A message that fails twice is claimed once and stays in flight, but each failure is written down with its error: 4 versions of rows and 3 kB of WAL where one that succeeds takes 2 and 0.6 kB.',
      goals: (laps) => [
        atLeast('the same without failures', ratio(laps, 'twinbox', 'without failures'), lessNoise(0.32)),
      ],
      remarks: [
        'graphile-worker waits e^attempt seconds before it tries again, which no option changes: its rate is its pause.',
      ],
    })
  },
}
