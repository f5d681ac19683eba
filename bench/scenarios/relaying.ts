import { countAtBroker, dropAtBroker, prepareBroker } from '../entrants/brokers.ts'
import { startBroker } from '../race/services.ts'
import { addRaceOptions, taskOf, type RaceOptions } from '../race/options.ts'
import { atLeast, costs, ratio, runRace } from '../race/race.ts'
import type { Scenario } from '../scenario.ts'

export const relayNull: Scenario<RaceOptions> = {
  name: 'relay-null',
  does: 'Drains an outbox to a broker that confirms at once, beside a bare loop and pg-transactional-outbox.',
  addOptions: (command) => addRaceOptions(command, { messages: 200_000, processes: 1 }),
  run(stage, options) {
    const task = taskOf(options, { keys: 'many' })
    // With more its laps take minutes, since each of its polls looks at all that wait; with fewer it is only faster.
    const theirs = { ...task, keys: 'none' as const, messages: Math.ceil(task.messages / 4) }
    return runRace(stage, {
      ...options,
      runners: [
        { name: 'twinbox', entrant: 'twinbox relay', task },
        { name: 'bare', entrant: 'bare relay', task },
        { name: 'pg-transactional-outbox', entrant: 'pg-transactional-outbox relay', task: theirs },
      ],
      goals: (laps) => [atLeast('a bare read + delete loop', ratio(laps, 'twinbox', 'bare'), 0.9)],
      bound: (laps) =>
        `the client: rows become objects and messages of a broker, and what was confirmed is sent back by lane, place and id; ${costs(laps, 'twinbox')}, where the bare loop takes ${costs(laps, 'bare')}.`,
      remarks: [
        `pg-transactional-outbox drains ${theirs.messages} messages without a key, which it takes in parallel, in batches from the first one on; with more waiting it is slower.`,
      ],
    })
  },
}

const relayTo = (kind: 'rabbitmq' | 'kafka', client: string, goal: number): Scenario<RaceOptions> => ({
  name: `relay-${kind}`,
  does: `Drains an outbox to a ${kind === 'kafka' ? 'Kafka' : 'RabbitMQ'}, beside ${client} alone sending the same messages.`,
  addOptions: (command) => addRaceOptions(command, { messages: 200_000, processes: 1 }),
  async run(stage, options) {
    const found = await startBroker(stage, kind)
    if (typeof found === 'string') throw new Error(`There is no ${kind}: ${found}`)
    const task = taskOf(options, { keys: 'many', broker: { kind, address: found.address } })
    return runRace(stage, {
      ...options,
      runners: [
        { name: 'twinbox', entrant: 'twinbox send', task },
        { name: client, entrant: `bare ${kind}`, task },
      ],
      hooks: () => ({
        around: async ({ url }) => {
          await prepareBroker(url, task)
          return async () => {
            const there = await countAtBroker(url, task)
            await dropAtBroker(url, task)
            return there === task.messages ? [] : [`the broker has ${there} of ${task.messages} messages`]
          }
        },
      }),
      bound: (laps) =>
        `processor time, of which the broker's own is not seen here: ${costs(laps, 'twinbox')}, where ${client} alone takes ${costs(laps, client)}. Twinbox also reads each message from a table, keeps its outcome and deletes it.`,
      goals: (laps) => [atLeast('the bare client', ratio(laps, 'twinbox', client), goal)],
    })
  },
})

export const relayRabbitmq = relayTo('rabbitmq', 'amqplib', 0.85)
export const relayKafka = relayTo('kafka', 'kafkajs', 0.75)
