import { reconnectMs } from '../../base/loop.ts'
import { BrokerError } from '../../base/errors.ts'
import { limits } from '../../base/options.ts'
import type { OnBatch, SubscribeOptions, Subscription } from '../broker.ts'
import { keepConsuming, type Consuming } from '../consuming.ts'
import type { Client } from './client.ts'
import { openClient } from './clients.ts'
import { openConsumption, type Consumption, type Feed } from './consumption.ts'
import { toTrouble } from './errors.ts'
import { createHandover } from './handover.ts'
import type { Settings } from './options.ts'
import { countLag } from './progress.ts'
import { findTopics } from './topics.ts'
import { onAbort, pause, untilAborted, within } from '../../base/waiting.ts'

export interface Subscriber {
  readonly subscribe: (options: SubscribeOptions, onBatch: OnBatch) => Promise<Subscription>
  close(): Promise<void>
}

/** After so long without trouble, the next trouble is a new one and is met with a short pause again. */
const calmMs = 10_000
const backoffMsMin = 100
const backoffMsMax = 5000

export function createSubscriber(settings: Settings): Subscriber {
  let closed = false
  const subscriptions = new Set<Subscription>()

  async function subscribe(options: SubscribeOptions, onBatch: OnBatch): Promise<Subscription> {
    if (closed) throw new BrokerError('config', 'This Kafka broker has been closed.')
    const groupId = toGroupId(options.consumer, settings)
    return keepConsuming(subscriptions, options, (consuming) =>
      consumeUntilStopped(settings, options, groupId, onBatch, consuming),
    )
  }

  async function close(): Promise<void> {
    closed = true
    await Promise.all([...subscriptions].map((subscription) => subscription.stop()))
  }

  return { subscribe, close }
}

/** Consumes until stopped, over any number of consumers, one after the other, each with a client of its own. */
async function consumeUntilStopped(
  settings: Settings,
  { batchSize, batchBytes = limits.batchBytes, topics: patterns, onReceiving }: SubscribeOptions,
  groupId: string,
  onBatch: OnBatch,
  { signal, tried, report, reportGap }: Consuming,
): Promise<void> {
  const handover = createHandover(onBatch, report)
  const feed: Feed = { groupId, batchSize, batchBytes, handover, report, reportGap, topicIds: new Map() }

  /** One consumer from finding its topics to its end. Resolves when it has to be replaced without anything being wrong. */
  async function consume(): Promise<void> {
    // What watches a consumer has a client of its own: the consumer's may be the very thing that is broken.
    const observer = await openClient(settings, settings.sessionTimeoutMs)
    try {
      const { topics, missing } = await within(signal, findTopics(observer, patterns, settings))
      for (const trouble of missing.values()) report(trouble)
      if (topics.length === 0) {
        tried()
        await untilTopicsChange(observer, topics, signal)
        return
      }
      const consumption = await openConsumption(settings, topics, feed, signal)
      tried()
      onReceiving?.()
      try {
        await untilReplaced(observer, consumption, topics)
      } finally {
        await consumption.close()
      }
    } finally {
      observer.retire()
    }
  }

  async function untilReplaced(
    observer: Client,
    consumption: Consumption,
    topics: readonly string[],
  ): Promise<void> {
    const enough = new AbortController()
    const stopListening = [signal, consumption.ended].map((given) =>
      onAbort(given, () => enough.abort(given.reason)),
    )
    try {
      await Promise.race([
        untilTopicsChange(observer, topics, enough.signal),
        untilStalled(observer, consumption, enough.signal),
      ])
    } finally {
      enough.abort()
      for (const stop of stopListening) stop()
    }
    if (consumption.ended.reason instanceof BrokerError) throw consumption.ended.reason
  }

  async function untilTopicsChange(
    client: Client,
    topics: readonly string[],
    enough: AbortSignal,
  ): Promise<void> {
    // Names that are there stay; if one is deleted, the consumer will tell.
    const final = patterns.every((pattern) => topics.includes(pattern))
    for (;;) {
      await (final ? untilAborted(enough) : pause(settings.topicRefreshMs, enough))
      if (enough.aborted) return
      const now = await within(enough, findTopics(client, patterns, settings))
      if (now.topics.join(' ') !== topics.join(' ')) return
    }
  }

  /** A client may stop receiving while everything looks well: kafkajs has more than one way. */
  async function untilStalled(client: Client, consumption: Consumption, enough: AbortSignal): Promise<void> {
    const patienceMs = 2 * settings.sessionTimeoutMs
    const { progress } = consumption
    for (;;) {
      const quietMs = handover.busy() ? 0 : performance.now() - progress.last()
      await pause(Math.max(patienceMs - quietMs, settings.sessionTimeoutMs / 4), enough)
      if (enough.aborted) return
      if (handover.busy() || performance.now() - progress.last() < patienceMs) continue
      const lag = await within(enough, countLag(client, groupId, progress))
      if (lag > 0n && !handover.busy() && performance.now() - progress.last() >= patienceMs) {
        throw new BrokerError(
          'reconnect',
          `${lag} messages wait, but none has arrived for ${patienceMs} ms. Starting over.`,
        )
      }
      progress.touch()
    }
  }

  let failures = 0
  while (!signal.aborted) {
    const startedAt = performance.now()
    try {
      await consume()
      failures = 0
    } catch (error) {
      if (signal.aborted) break
      report(toTrouble('Could not receive from Kafka', error))
      failures = performance.now() - startedAt > calmMs ? 1 : failures + 1
      tried()
      await pause(reconnectMs(failures, backoffMsMin, backoffMsMax), signal)
    }
  }
}

/** @throws BrokerError */
function toGroupId(consumer: string, settings: Settings): string {
  let groupId: string
  try {
    groupId = settings.groupId(consumer)
  } catch (cause) {
    throw new BrokerError('config', `The option groupId threw for consumer "${consumer}".`, { cause })
  }
  if (typeof groupId !== 'string' || groupId === '') {
    throw new BrokerError('config', `The option groupId gave no name for consumer "${consumer}".`)
  }
  return groupId
}
