import type { Admin } from 'kafkajs'
import type { Broker } from '../../src/brokers/broker.ts'
import { kafka } from '../../src/brokers/kafka.ts'
import { loadKafkajs } from '../../src/brokers/kafka/client.ts'
import { postgres } from '../../src/brokers/postgres.ts'
import { rabbitmq } from '../../src/brokers/rabbitmq.ts'
import { loadAmqplib } from '../../src/brokers/rabbitmq/connection.ts'
import type { Database } from '../../src/database/database.ts'
import { kafkaBrokers } from '../../src/terminal/brokers.ts'
import type { BrokerName } from '../../src/terminal/flags.ts'

/** What all processes of one run of the demo or the soak have to know. */
export interface Run {
  /** Part of every name, so that runs at the same time are strangers to each other. */
  readonly name: string
  readonly databaseUrl: string
  readonly schema: string
  readonly broker: BrokerName
  readonly brokerUrl: string | null
  readonly consumer: string
}

export function openBroker(run: Run, database: Database): Broker {
  switch (run.broker) {
    case 'postgres':
      return postgres({ database })
    case 'rabbitmq':
      return rabbitmq({ url: run.brokerUrl!, exchange: run.name, queue: (name) => `${run.name}.${name}` })
    case 'kafka':
      // One Kafka topic for all of ours: creating 58 of them would take longer than the demo.
      return kafka({
        brokers: kafkaBrokers(run.brokerUrl!),
        topic: () => run.name,
        groupId: (name) => `${run.name}.${name}`,
      })
    default:
      return run.broker satisfies never
  }
}

/** Fails at once where workers would go on trying for ever. @throws OptionError, BrokerError, or what the client library says */
export async function reachBroker(run: Run, database: Database): Promise<void> {
  await openBroker(run, database).close()
  if (run.broker === 'rabbitmq') {
    const { connect } = await loadAmqplib()
    const connection = await connect(run.brokerUrl!, { timeout: 5000 })
    connection.on('error', () => {})
    await connection.close()
  }
  if (run.broker === 'kafka') await withKafka(run, (admin) => admin.describeCluster())
}

/** What the receiver subscribes to. */
export function topicsOf(run: Run): string[] {
  return run.broker === 'kafka' ? [run.name] : ['#']
}

/** Where a server listens. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** Of the broker, as its clients will see them. */
export async function brokerAddresses(run: Run): Promise<Address[]> {
  if (run.broker === 'rabbitmq') {
    const { hostname, port } = new URL(run.brokerUrl!)
    return [{ host: hostname, port: port === '' ? 5672 : Number(port) }]
  }
  if (run.broker === 'postgres') return []
  // What it says of itself, and what it is called by at first, need not be the same.
  const said: Address[] = kafkaBrokers(run.brokerUrl!).map((broker) => {
    const [host, port] = broker.split(/:(?=\d+$)/)
    return { host: host!, port: Number(port ?? 9092) }
  })
  await withKafka(run, async (admin) => {
    for (const { host, port } of (await admin.describeCluster()).brokers) {
      if (!said.some((known) => known.host === host && known.port === port)) said.push({ host, port })
    }
  })
  return said
}

/** Removes from the broker whatever the run has made there. */
export async function clearBroker(run: Run): Promise<void> {
  if (run.broker === 'rabbitmq') {
    const { connect } = await loadAmqplib()
    const connection = await connect(run.brokerUrl!, { timeout: 5000 })
    connection.on('error', () => {})
    const channel = await connection.createChannel()
    await channel.deleteQueue(`${run.name}.${run.consumer}`)
    await channel.deleteExchange(run.name)
    await connection.close()
  }
  if (run.broker === 'kafka') {
    await withKafka(run, async (admin) => {
      const existing = await admin.listTopics()
      if (existing.includes(run.name)) await admin.deleteTopics({ topics: [run.name] })
      // The coordinator may still wait for a member that has just left.
      await admin.deleteGroups([`${run.name}.${run.consumer}`]).catch(() => {})
    })
  }
}

async function withKafka(run: Run, work: (admin: Admin) => Promise<unknown>): Promise<void> {
  const { Kafka, logLevel } = await loadKafkajs()
  const brokers = kafkaBrokers(run.brokerUrl!)
  const admin = new Kafka({ brokers, logLevel: logLevel.NOTHING, retry: { retries: 2 } }).admin()
  await admin.connect()
  try {
    await work(admin)
  } finally {
    await admin.disconnect()
  }
}
