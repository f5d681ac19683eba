import type { Channel } from 'amqplib'
import { BrokerError } from '../../base/errors.ts'
import { toBrokerError } from './errors.ts'
import type { Settings } from './options.ts'

/** What has to exist on the server: one durable topic exchange, and a queue with its bindings for each consumer. */

/**
 * Every lost connection and every restart of a receiver counts as a delivery. RabbitMQ 4 drops a message after 20 of
 * them unless told otherwise, so a broken database over a weekend would lose messages. -1 is how RabbitMQ 4 spells
 * "never", but RabbitMQ 3 refuses it; this largest 32-bit number is taken by both and means the same. With a limit, a
 * returned message also goes back to the head of the queue, as the order of a key needs, and not to its end.
 */
const deliveryLimit = 2 ** 31 - 1

/** @throws BrokerError, and leaves the channel closed. */
export async function ensureExchange(channel: Channel, settings: Settings): Promise<void> {
  const { exchange, topology } = settings
  try {
    if (topology === 'check') await channel.checkExchange(exchange)
    else await channel.assertExchange(exchange, 'topic', { durable: true })
  } catch (error) {
    throw explained(error, `exchange "${exchange}"`, 'a durable topic exchange', 'exchange')
  }
}

/** @throws BrokerError, and leaves the channel closed. */
export async function ensureQueue(
  channel: Channel,
  settings: Settings,
  queue: string,
  topics: readonly string[],
): Promise<void> {
  const { exchange, topology, queueType } = settings
  // Several receivers at work on one queue would break the order of a key. A single active one keeps it, and the
  // server passes the turn to the next when it goes.
  const queueArguments: Record<string, unknown> = {
    'x-queue-type': queueType,
    'x-single-active-consumer': true,
    ...(queueType === 'quorum' && { 'x-delivery-limit': deliveryLimit }),
  }
  try {
    if (topology === 'check') {
      await channel.checkQueue(queue)
      return
    }
    await channel.assertQueue(queue, { durable: true, arguments: queueArguments })
  } catch (error) {
    throw explained(
      error,
      `queue "${queue}"`,
      `a durable queue with ${JSON.stringify(queueArguments)}`,
      'queue',
    )
  }
  try {
    for (const topic of topics) await channel.bindQueue(queue, exchange, topic)
  } catch (error) {
    throw toBrokerError(`Could not bind queue "${queue}" to exchange "${exchange}"`, error)
  }
}

function explained(error: unknown, what: string, wanted: string, option: string): BrokerError {
  const code: unknown = error instanceof Error && 'code' in error ? error.code : null
  if (code === 406) {
    return new BrokerError(
      'config',
      `The ${what} exists, but not as Twinbox declares it: ${wanted}. Delete it once it is empty, or give another ` +
        `name (option ${option}), or keep it as it is and set topology to 'check'.`,
      { cause: error },
    )
  }
  if (code === 404) {
    return new BrokerError(
      'config',
      `The ${what} does not exist. Create it, or set topology to 'declare' to have it created: ${wanted}.`,
      { cause: error },
    )
  }
  return toBrokerError(`Could not use the ${what}`, error)
}
