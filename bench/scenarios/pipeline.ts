import { InvalidArgumentError } from 'commander'
import { dropAtBroker, prepareBroker } from '../entrants/brokers.ts'
import type { BrokerKind } from '../race/entrant.ts'
import type { Runner } from '../race/lap.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, costs, ratioOf, ratioToSum, runRace } from '../race/race.ts'
import { startBroker } from '../race/services.ts'
import type { Scenario } from '../scenario.ts'

interface Options extends RaceOptions {
  readonly brokers: readonly ('postgres' | BrokerKind)[]
}

const clients = {
  ...{ rabbitmq: 'amqplib', kafka: 'kafkajs', platformatic: '@platformatic/kafka', zeromq: 'zeromq' },
} as const
/** The share of the bare stages' rate that is to be reached. */
const goals: Readonly<Record<string, number>> = {
  twinbox: 0.75,
  'twinbox over rabbitmq': 0.6,
  'twinbox over kafka': 0.55,
}
const kinds = ['postgres', 'rabbitmq', 'kafka', 'platformatic', 'zeromq'] as const

export const pipeline: Scenario<Options> = {
  name: 'pipeline',
  does: 'Publishes, relays, receives and handles at once, beside the sum of the bare stages.',
  addOptions(command) {
    addRaceOptions(command, { messages: 200_000 })
    command.option('--brokers <kinds>', `some of: ${kinds.join(', ')}`, readKinds, [...kinds])
  },
  async run(stage, options) {
    const task = taskOf(options, { keys: 'many', processes: 2 })
    const remarks: string[] = []
    const runners: Runner[] = []
    /** Of each that is ours, the stages that it is measured by. */
    const stages: Record<string, readonly string[]> = {}
    for (const kind of options.brokers) {
      if (kind === 'postgres') {
        runners.push({ name: 'twinbox', entrant: 'twinbox pipeline', task })
        stages['twinbox'] = ['bare']
        continue
      }
      const found = await startBroker(stage, kind)
      if (typeof found === 'string') {
        remarks.push(`${kind} was left out: ${found}`)
        continue
      }
      const over = { ...task, broker: { kind, address: found.address } }
      const ours = `twinbox over ${kind === 'platformatic' ? 'kafka by platformatic' : kind}`
      const client = clients[kind]
      runners.push({ name: ours, entrant: 'twinbox pipeline', task: over })
      runners.push({ name: client, entrant: `bare ${kind}`, task: { ...over, keys: 'none' } })
      stages[ours] = ['bare', client]
    }
    // As the clients, it keeps no order per key.
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
        ...Object.entries(stages).map(([name, of]) =>
          atLeast(`${name}: the sum of the bare stages`, ratioToSum(laps, name, of), goals[name] ?? 0.5),
        ),
        ...(laps.has('twinbox')
          ? [
              (() => {
                const found = ratioOf(laps.get('twinbox')!.map(({ rate }) => rate / 10_000))
                return { says: 'over Postgres at least 10,000 messages/s', met: found.median >= 1, found }
              })(),
            ]
          : []),
      ],
      bound: (laps) =>
        `processor time: the bare stages take ${costs(laps, 'bare')}` +
        (laps.has('twinbox') ? `, Twinbox ${costs(laps, 'twinbox')}` : '') +
        '. The inbox also remembers the id (`seen`), and every stage checks leases and order.',
      remarks: [
        'The bare stages: insert into the outbox, read and delete, insert into an inbox, read and delete, one after ' +
          'the other; with a broker also sending by its client alone, but not receiving.',
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
