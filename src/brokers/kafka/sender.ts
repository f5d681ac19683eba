import { reconnectMs } from '../../base/loop.ts'
import { BrokerError } from '../../base/errors.ts'
import type { OutgoingMessage } from '../../message/message.ts'
import type { Broker, SendContext, SendOutcome } from '../broker.ts'
import { classify, isAboutTopic, toBrokerError, toTrouble, typeOf } from './errors.ts'
import { aheadOf, groupBy, splitBySize, toOutgoing, unsettled, type Outgoing } from './outgoing.ts'
import type { Settings } from './options.ts'
import { openProducer, type Attempts } from './producer.ts'
import { quotaPerHour } from './topics.ts'
import { onAbort, pause, within } from '../../base/waiting.ts'

export interface Sender {
  readonly send: Broker['send']
  close(): Promise<void>
}

/** Partitions change leaders within a moment; what takes longer is for the relay to wait out. */
const maxRetries = 4

/** One producer for all batches. Those that are under way at a time have no key in common: whoever calls sees to that. */
export function createSender(settings: Settings): Sender {
  const life = new AbortController()
  // Of the sender's, since a producer does not live for long when the broker is in trouble.
  const quota = quotaPerHour(settings.maxNewTopics)
  let producer: Promise<Attempts> | null = null
  const underWay = new Set<Promise<unknown>>()

  async function send(batch: readonly OutgoingMessage[], { signal }: SendContext): Promise<SendOutcome[]> {
    const outgoing = batch.map((message) => toOutgoing(message, settings))
    const deadline = startDeadline(signal)
    const delivery = deliver(unfinished(outgoing), deadline.signal)
    underWay.add(delivery)
    const reason = await delivery
    underWay.delete(delivery)
    deadline.end()
    return outgoing.map(
      (message) => message.outcome ?? unsettled(message, reason ?? givenUp(deadline.signal)),
    )
  }

  /** Gives every message an outcome if it can; else returns why not. Never rejects, and ends with the signal. */
  async function deliver(batch: readonly Outgoing[], signal: AbortSignal): Promise<BrokerError | null> {
    for (const chunk of splitBySize(batch, settings.maxRequestBytes)) {
      const reason = await write(chunk, signal)
      if (reason !== null) return reason
    }
    return null
  }

  /** As `deliver`, with attempts for as long as another one makes sense. */
  async function write(chunk: readonly Outgoing[], signal: AbortSignal): Promise<BrokerError | null> {
    for (let failures = 1; ; failures++) {
      if (signal.aborted) return givenUp(signal)
      let inFlight = unfinished(chunk)
      const shared = currentProducer()
      let attempts: Attempts | null = null
      try {
        attempts = await within(signal, shared)
        const absent = await within(signal, attempts.absent(topicsOf(inFlight)))
        if (absent.length > 0) {
          // Whoever publishes under new names has nobody wait for them.
          inFlight = aheadOf(inFlight, new Set(absent))
          if (inFlight.length > 0) await attempt(attempts, inFlight, signal)
          inFlight = unfinished(chunk)
          settleMissing(inFlight, await within(signal, attempts.create(absent)))
          inFlight = unfinished(chunk)
        }
        if (inFlight.length > 0) await attempt(attempts, inFlight, signal)
        return null
      } catch (error) {
        const kind = signal.aborted ? 'unknown' : classify(error)
        if (kind === 'poison' || isAboutTopic(error)) {
          const reason = await isolate(inFlight, error, signal)
          if (reason !== null || unfinished(chunk).length === 0) return reason
          // The others waited for their topics.
          continue
        }
        // Also for a topic that has just been created: not every broker has heard of it.
        const gone = typeOf(error) === 'UNKNOWN_TOPIC_OR_PARTITION'
        if (gone) attempts?.forget(topicsOf(inFlight))
        if ((gone || kind === 'retry') && failures <= maxRetries) {
          await pause(reconnectMs(failures, 100, 1000), signal)
          continue
        }
        drop(shared)
        if (signal.aborted) return givenUp(signal)
        const describe = inFlight.some(({ doubtful }) => doubtful) ? toBrokerError : toTrouble
        return describe('Could not send to Kafka', error)
      }
    }
  }

  async function attempt(attempts: Attempts, batch: readonly Outgoing[], signal: AbortSignal): Promise<void> {
    const before = batch.map(({ doubtful }) => doubtful)
    for (const outgoing of batch) outgoing.doubtful = true
    try {
      await within(signal, attempts.write(batch))
      for (const outgoing of batch) outgoing.outcome = { status: 'sent' }
    } catch (error) {
      // Doubt stays once it is there. A batch refused by one partition may have been taken by another one; those
      // messages arrive twice, with the same id.
      if (!signal.aborted && classify(error) !== 'unknown') {
        for (const [index, outgoing] of batch.entries()) outgoing.doubtful = before[index]!
      }
      throw error
    }
  }

  /**
   * One bad message fails the request that it is in. So its companions go again: by topic when a topic is at fault,
   * else by partition, since a partition takes its part as a whole or not at all, and then in halves, one after the
   * other, until the bad one is alone. Within a key nothing changes places.
   */
  async function isolate(
    batch: readonly Outgoing[],
    error: unknown,
    signal: AbortSignal,
  ): Promise<BrokerError | null> {
    const parts = [
      ...groupBy(batch, ({ topic, record }) =>
        isAboutTopic(error) ? topic : `${topic}/${record.partition ?? ''}`,
      ).values(),
    ]
    if (parts.length === 1 && (batch.length === 1 || isAboutTopic(error))) {
      const refusal = toBrokerError('Kafka refused the message', error)
      for (const outgoing of batch) outgoing.outcome = { status: 'rejected', error: refusal }
      return null
    }
    const half = batch.length >> 1
    for (const part of parts.length > 1 ? parts : [batch.slice(0, half), batch.slice(half)]) {
      const reason = await write(part, signal)
      if (reason !== null) return reason
    }
    return null
  }

  function settleMissing(batch: readonly Outgoing[], missing: ReadonlyMap<string, BrokerError>): void {
    for (const outgoing of batch) {
      const error = missing.get(outgoing.topic)
      if (error === undefined) continue
      outgoing.outcome = settings.unroutable === 'drop' ? { status: 'sent' } : { status: 'rejected', error }
    }
  }

  /** Whoever asks while it is being opened shares the attempt. One that failed is not remembered. */
  function currentProducer(): Promise<Attempts> {
    if (producer !== null) return producer
    const opening = openProducer(settings, quota, life.signal)
    producer = opening
    opening.catch(() => drop(opening))
    return opening
  }

  /** With it ends what other batches have under way: after a doubt, nothing on these connections can be told apart. */
  function drop(shared: Promise<Attempts>): void {
    if (producer === shared) producer = null
    shared.then(
      (opened) => opened.retire(),
      () => {},
    )
  }

  function startDeadline(parent: AbortSignal): { readonly signal: AbortSignal; end(): void } {
    // `AbortSignal.any` would do, but leaks in Node 20 when one of its signals lives as long as the process.
    const controller = new AbortController()
    const timer = setTimeout(() => controller.abort(late(settings.sendTimeoutMs)), settings.sendTimeoutMs)
    const stopListening = [parent, life.signal].map((signal) =>
      onAbort(signal, () => controller.abort(signal.reason)),
    )
    return {
      signal: controller.signal,
      end: () => {
        clearTimeout(timer)
        for (const stop of stopListening) stop()
      },
    }
  }

  async function close(): Promise<void> {
    if (life.signal.aborted) return
    life.abort(new BrokerError('config', 'This Kafka broker has been closed.'))
    await Promise.all(underWay)
    const last = producer
    producer = null
    await last?.then(
      (opened) => opened.close(),
      () => {},
    )
  }

  return { send, close }
}

const unfinished = (batch: readonly Outgoing[]): Outgoing[] => batch.filter(({ outcome }) => outcome === null)

const topicsOf = (batch: readonly Outgoing[]): string[] => [...new Set(batch.map(({ topic }) => topic))]

const late = (ms: number): BrokerError =>
  new BrokerError('reconnect', `Kafka did not answer within ${ms} ms (sendTimeoutMs).`)

const givenUp = ({ reason }: AbortSignal): BrokerError =>
  reason instanceof BrokerError
    ? reason
    : new BrokerError('retry', 'The sender gave up waiting for Kafka.', { cause: reason })
