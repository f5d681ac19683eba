import { InvalidArgumentError } from 'commander'
import { dropAtBroker, prepareBroker } from '../entrants/brokers.ts'
import type { Runner } from '../race/lap.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, ratio, ratioOf, runRace } from '../race/race.ts'
import { startBroker } from '../race/services.ts'
import type { Scenario } from '../scenario.ts'

interface Options extends RaceOptions {
  readonly brokers: readonly ('postgres' | 'rabbitmq' | 'kafka')[]
}

const kinds = ['postgres', 'rabbitmq', 'kafka'] as const

export const pipeline: Scenario<Options> = {
  name: 'pipeline',
  does: 'Publishes, relays, receives and handles at once, beside the sum of the bare stages.',
  addOptions(command) {
    addRaceOptions(command, { messages: 50_000 })
    command.option('--brokers <kinds>', `some of: ${kinds.join(', ')}`, readKinds, [...kinds])
  },
  async run(stage, options) {
    const task = taskOf(options, { keys: 'many', processes: 2 })
    const remarks: string[] = []
    const runners: Runner[] = []
    for (const kind of options.brokers) {
      if (kind === 'postgres') {
        runners.push({ name: 'twinbox', entrant: 'twinbox pipeline', task })
        continue
      }
      const found = await startBroker(stage, kind)
      if (typeof found === 'string') remarks.push(`${kind} was left out: ${found}`)
      else
        runners.push({
          name: `twinbox over ${kind}`,
          entrant: 'twinbox pipeline',
          task: { ...task, broker: { kind, address: found.address } },
        })
    }
    // It keeps no order per key.
    runners.push({ name: 'bare', entrant: 'bare pipeline', task: { ...task, keys: 'none' } })
    return runRace(stage, {
      ...options,
      runners,
      hooks: ({ task: run }) =>
        run.broker === undefined
          ? {}
          : {
              around: async ({ url }) => {
                await prepareBroker(url, run)
                return async () => {
                  await dropAtBroker(url, run)
                  return []
                }
              },
            },
      goals: (laps) => [
        ...runners
          .filter(({ name }) => name !== 'bare')
          .map(({ name }) => atLeast(`${name}: the sum of the bare stages`, ratio(laps, name, 'bare'), 0.5)),
        ...(laps.has('twinbox')
          ? [
              (() => {
                const found = ratioOf(laps.get('twinbox')!.map(({ rate }) => rate / 10_000))
                return { says: 'over Postgres at least 10,000 messages/s', met: found.median >= 1, found }
              })(),
            ]
          : []),
      ],
      bound:
        'processor time: the bare stages write 1 kB of WAL and four tuples per message, Twinbox 1.3 kB and five, since the inbox also remembers the id (`seen`), and every stage checks leases and order.',
      remarks: [
        'The bare stages: insert into the outbox, read and delete, insert into an inbox, read and delete, one after ' +
          'the other, without any broker in between.',
        ...remarks,
      ],
    })
  },
}

function readKinds(text: string): Options['brokers'] {
  return text.split(',').map((name) => {
    const kind = kinds.find((known) => known === name.trim())
    if (kind === undefined) throw new InvalidArgumentError(`There is no broker "${name}".`)
    return kind
  })
}
