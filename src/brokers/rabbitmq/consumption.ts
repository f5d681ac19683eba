import type { Channel, ConsumeMessage } from 'amqplib'
import { BrokerError } from '../../base/errors.ts'
import type { SubscribeOptions } from '../broker.ts'
import { batchLength } from '../consuming.ts'
import { swallowHandlerErrors, type Link } from './connection.ts'
import { connectionLost, toBrokerError } from './errors.ts'
import type { Settings } from './options.ts'
import { ensureExchange, ensureQueue } from './topology.ts'
import { atMost } from '../../base/waiting.ts'
import type { Window } from './window.ts'

/** What is to be consumed. */
export interface Source {
  readonly queue: string
  readonly topics: readonly string[]
  readonly window: Window
}

/** A queue being consumed on a channel of its own, until the channel is lost or closed. */
export interface Consumption {
  /**
   * Aborts when there is nothing more to come. The reason is a BrokerError, or null if nothing is wrong: it was closed,
   * or has to begin again with another number of deliveries ahead.
   */
  readonly ended: AbortSignal
  /** Waits for deliveries, and takes of those that are there what makes one batch. Null when it has ended. */
  take(bounds: Pick<SubscribeOptions, 'batchSize' | 'batchBytes'>): Promise<ConsumeMessage[] | null>
  /** Ends it, but leaves the channel open for a last acknowledgement. */
  readonly stop: () => void
  /** Acknowledges this delivery and all before it. If that does not get through, they come again. */
  acknowledge(last: ConsumeMessage): void
  /** What is not acknowledged goes back to the head of the queue. */
  close(): Promise<void>
}

const closeTimeoutMs = 2000

/** With something for what is beside the body. */
const bytesOf = ({ content }: ConsumeMessage): number => content.byteLength + 1000

/** @throws BrokerError */
export async function openConsumption(link: Link, settings: Settings, source: Source): Promise<Consumption> {
  let channel: Channel
  try {
    channel = await link.model.createChannel()
  } catch (error) {
    throw toBrokerError('Could not open a channel to consume from', error)
  }
  const consumption = watch(link, channel, source)
  try {
    await ensureExchange(channel, settings)
    await ensureQueue(channel, settings, source.queue, source.topics)
    await channel.prefetch(source.window.prefetch())
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

function watch(link: Link, channel: Channel, { queue, window }: Source): Watched {
  const end = new AbortController()
  let deliveries: ConsumeMessage[] = []
  let taken: ConsumeMessage[] = []
  /** Of all that is not acknowledged. */
  let bytes = 0
  let wake = (): void => {}
  const finish = (reason: BrokerError | null): void => {
    end.abort(reason)
    wake()
  }
  let closing: Promise<void> | null = null
  const shut = (): Promise<void> => {
    // Twice is an error of amqplib's.
    closing ??= (async () => channel.close())().catch(() => {})
    return closing
  }
  /** Gives everything back at once, also what is being written: that comes again, and is known by its ids. */
  const renew = (): void => {
    deliveries = []
    finish(null)
    void shut()
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
      if (end.signal.aborted) return
      if (delivery !== null) {
        deliveries.push(delivery)
        bytes += bytesOf(delivery)
        if (window.overflows(taken.length + deliveries.length, bytes)) renew()
        wake()
      } else {
        // The server's way to say that it has cancelled us: the queue was deleted, or its node went away.
        finish(new BrokerError('retry', `RabbitMQ cancelled the consumer of queue "${queue}".`))
      }
    },
    take: async (bounds) => {
      while (deliveries.length === 0 && !end.signal.aborted) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      if (end.signal.aborted) return null
      const length = batchLength(deliveries, bytesOf, bounds)
      taken = deliveries.slice(0, length)
      deliveries = deliveries.slice(length)
      return taken
    },
    stop: () => finish(null),
    acknowledge: (last) => {
      try {
        channel.ack(last, true)
      } catch {
        // The channel was lost meanwhile: its deliveries come again, and are known by their ids.
      }
      const settled = taken.reduce((sum, delivery) => sum + bytesOf(delivery), 0)
      bytes -= settled
      if (deliveries.length === 0 && window.widens(taken.length, settled)) finish(null)
      taken = []
    },
    close: async () => {
      finish(null)
      // Once this is confirmed, the server has seen every acknowledgement.
      await atMost(closeTimeoutMs, Promise.race([shut(), closed]))
    },
  }
}
