import type { Client, Library } from './client.ts'
import { toTrouble } from './errors.ts'
import { kafkajs } from './kafkajs/kafkajs.ts'
import type { ClientName, Settings } from './options.ts'
import { platformatic } from './platformatic/platformatic.ts'

/** Every client library that Twinbox knows. Each is loaded when it is needed. */
export const clients: Readonly<Record<ClientName, Library>> = { kafkajs, platformatic }

/** @throws BrokerError if the library cannot be used here */
export const openClient = (settings: Settings, requestTimeoutMs: number): Promise<Client> =>
  clients[settings.client].open(settings, requestTimeoutMs)

const probeTimeoutMs = 3000

/** Connects and signs in, once. @throws BrokerError */
export async function probeKafka(settings: Settings): Promise<void> {
  const client = await openClient(settings, probeTimeoutMs)
  try {
    await client.withAdmin(async () => {})
  } catch (error) {
    throw toTrouble('Could not connect to Kafka', error)
  } finally {
    client.retire()
  }
}
