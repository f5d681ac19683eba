import type { Broker } from '../brokers/broker.ts'
import { kafka } from '../brokers/kafka.ts'
import { postgres } from '../brokers/postgres.ts'
import { rabbitmq } from '../brokers/rabbitmq.ts'
import type { DatabaseInput } from '../database/database.ts'
import { UsageError } from './failure.ts'
import { brokerNames } from './flags.ts'

const urlExamples = { rabbitmq: 'amqp://127.0.0.1:5672', kafka: '127.0.0.1:9092' } as const

/** Opens one with default options. Postgres needs no URL: the inboxes are then where the outbox is. @throws UsageError */
export function openBroker(
  name: string,
  url: string | undefined,
  database: () => DatabaseInput,
  schema: string,
): Broker {
  const broker = brokerNames.find((known) => known === name)
  if (broker === undefined) throw new UsageError(`The broker must be one of ${brokerNames.join(', ')}.`)
  if (broker === 'postgres') return postgres({ database: url ?? database(), schema })
  if (url === undefined) {
    throw new UsageError(
      `The broker ${broker} needs --url or TWINBOX_BROKER_URL, such as ${urlExamples[broker]}.`,
    )
  }
  return broker === 'rabbitmq' ? rabbitmq({ url }) : kafka({ brokers: kafkaBrokers(url) })
}

/** Of `host:port`, several with commas between. */
export const kafkaBrokers = (url: string): string[] =>
  url.split(',').map((broker) => broker.trim().replace(/^kafka:\/\//, ''))
