import type { Channel } from 'amqplib'
import { atMost, pause } from '../../base/waiting.ts'
import { swallowHandlerErrors, type Link } from './connection.ts'
import type { Source } from './consumption.ts'
import { toBrokerError } from './errors.ts'
import type { Settings } from './options.ts'
import { ensureExchange, ensureQueue } from './topology.ts'

/** So often a receiver looks to its bindings. */
const everyMs = 5000
const closeTimeoutMs = 2000

/**
 * Declares again and again what a receiver needs, which changes nothing as long as it is there. Of a binding or an exchange
 * that somebody has deleted, nobody is told: the receiver would go on consuming a queue that gets nothing.
 */
export async function keepBound(
  link: Link,
  settings: Settings,
  { queue, topics }: Pick<Source, 'queue' | 'topics'>,
  ended: AbortSignal,
): Promise<void> {
  if (settings.topology === 'check') return
  for (;;) {
    await pause(everyMs * (0.75 + Math.random() / 2), ended)
    if (ended.aborted) return
    await onChannel(link, async (channel) => {
      await ensureExchange(channel, settings)
      await ensureQueue(channel, settings, queue, topics)
      // Whoever consumes hears of a connection that is gone; what the server refuses now, the next round asks again.
    }).catch(() => {})
  }
}

/** Unbinds a queue. What is not bound, or does not exist, need not be. @throws BrokerError */
export async function unbind(
  link: Link,
  settings: Settings,
  queue: string,
  topics: readonly string[],
): Promise<void> {
  if (settings.topology === 'check') return
  try {
    await onChannel(link, async (channel) => {
      for (const topic of topics) await channel.unbindQueue(queue, settings.exchange, topic)
    })
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 404) return
    throw toBrokerError(`Could not unbind queue "${queue}" from exchange "${settings.exchange}"`, error)
  }
}

/** On a channel of its own: what the server refuses closes it. */
async function onChannel(link: Link, work: (channel: Channel) => Promise<void>): Promise<void> {
  const channel = await link.model.createChannel()
  // Without a listener it would be thrown; whoever waits for an answer gets the error as well.
  channel.on('error', () => {})
  swallowHandlerErrors(channel)
  try {
    await work(channel)
  } finally {
    await atMost(
      closeTimeoutMs,
      channel.close().catch(() => {}),
    )
  }
}
