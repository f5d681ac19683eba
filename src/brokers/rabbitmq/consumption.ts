import type { Channel, ConsumeMessage } from 'amqplib'
import { BrokerError } from '../../errors.ts'
import { swallowHandlerErrors, type Link } from './connection.ts'
import { connectionLost, toBrokerError } from './errors.ts'
import type { Settings } from './options.ts'
import { ensureExchange, ensureQueue } from './topology.ts'
import { atMost } from '../../waiting.ts'

/** What is to be consumed. */
export interface Source {
  readonly queue: string
  readonly topics: readonly string[]
  readonly prefetch: number
}

/** A queue being consumed on a channel of its own, until the channel is lost or closed. */
export interface Consumption {
  /** Aborts when there is nothing more to come. The reason is a BrokerError, or null if `close` was called. */
  readonly ended: AbortSignal
  /** Waits for deliveries, and takes up to `limit` of those that are there. Null when it has ended. */
  take(limit: number): Promise<ConsumeMessage[] | null>
  /** Ends it, but leaves the channel open for a last acknowledgement. */
  readonly stop: () => void
  /** Acknowledges this delivery and all before it. If that does not get through, they come again. */
  acknowledge(last: ConsumeMessage): void
  /** What is not acknowledged goes back to the head of the queue. */
  close(): Promise<void>
}

const closeTimeoutMs = 2000

/** @throws BrokerError */
export async function openConsumption(link: Link, settings: Settings, source: Source): Promise<Consumption> {
  let channel: Channel
  try {
    channel = await link.model.createChannel()
  } catch (error) {
    throw toBrokerError('Could not open a channel to consume from', error)
  }
  const consumption = watch(link, channel, source.queue)
  try {
    await ensureExchange(channel, settings)
    await ensureQueue(channel, settings, source.queue, source.topics)
    await channel.prefetch(source.prefetch)
    await channel.consume(source.queue, consumption.onDelivery)
    return consumption
  } catch (error) {
    await consumption.close()
    throw toBrokerError(`Could not consume queue "${source.queue}"`, error)
  }
}

interface Watched extends Consumption {
  readonly onDelivery: (delivery: ConsumeMessage | null) => void
}

function watch(link: Link, channel: Channel, queue: string): Watched {
  const end = new AbortController()
  let deliveries: ConsumeMessage[] = []
  let wake = (): void => {}
  const finish = (reason: BrokerError | null): void => {
    end.abort(reason)
    wake()
  }
  channel.on('error', (error) =>
    finish(toBrokerError(`RabbitMQ closed the channel of queue "${queue}"`, error)),
  )
  const closed = new Promise<void>((resolve) => {
    channel.on('close', resolve)
  })
  channel.on('close', () => finish(connectionLost(`while consuming queue "${queue}"`, link.failure())))
  swallowHandlerErrors(channel)

  return {
    ended: end.signal,
    onDelivery: (delivery) => {
      if (delivery !== null) {
        deliveries.push(delivery)
        wake()
      } else {
        // The server's way to say that it has cancelled us: the queue was deleted, or its node went away.
        finish(new BrokerError('retry', `RabbitMQ cancelled the consumer of queue "${queue}".`))
      }
    },
    take: async (limit) => {
      while (deliveries.length === 0 && !end.signal.aborted) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      if (end.signal.aborted) return null
      const taken = deliveries.slice(0, limit)
      deliveries = deliveries.slice(limit)
      return taken
    },
    stop: () => finish(null),
    acknowledge: (last) => {
      try {
        channel.ack(last, true)
      } catch {
        // The channel was lost meanwhile: its deliveries come again, and are known by their ids.
      }
    },
    close: async () => {
      finish(null)
      // Once this is confirmed, the server has seen every acknowledgement.
      await atMost(closeTimeoutMs, Promise.race([channel.close(), closed]))
    },
  }
}
