import { BrokerError, describeError, warn } from '../base/errors.ts'
import { reconnectMs } from '../base/loop.ts'
import { pause } from '../base/waiting.ts'
import { limits } from '../base/options.ts'
import type { Gap, IncomingMessage, OnBatch, SubscribeOptions, Subscription } from './broker.ts'

export interface Consuming {
  /** Aborted when the subscription is stopped. */
  readonly signal: AbortSignal
  /** To be called when an attempt has come to something, be it a failure. */
  readonly tried: () => void
  /** These tell the subscriber's observers, whose own errors may not end the work. */
  readonly report: (trouble: BrokerError) => void
  readonly reportGap: (gap: Gap) => void
}

/**
 * Keeps a subscription going, over any number of connections, and among `subscriptions`, until it is stopped. Resolves
 * after its first attempt.
 *
 * @param run the work; it resolves once its signal is aborted, and does not reject
 */
export async function keepConsuming(
  subscriptions: Set<Subscription>,
  { onTrouble, onGap }: Pick<SubscribeOptions, 'onTrouble' | 'onGap'>,
  run: (consuming: Consuming) => Promise<void>,
): Promise<Subscription> {
  const stopping = new AbortController()
  let tried = (): void => {}
  const triedOnce = new Promise<void>((resolve) => {
    tried = resolve
  })
  const observer =
    <Told>(name: string, observe: ((told: Told) => void) | undefined) =>
    (told: Told): void => {
      try {
        observe?.(told)
      } catch (thrown) {
        warn(`An ${name} observer threw: ${describeError(thrown)}`)
      }
    }
  const [report, reportGap] = [observer('onTrouble', onTrouble), observer('onGap', onGap)]
  const running = run({ signal: stopping.signal, tried, report, reportGap }).finally(tried)
  const subscription = {
    stop: async () => {
      stopping.abort()
      await running
      subscriptions.delete(subscription)
    },
  }
  subscriptions.add(subscription)
  await triedOnce
  return subscription
}

const againMs = [100, 5000] as const

/**
 * Hands a batch over until it is taken. False if the way by which it came has `ended` before: then the broker sends it again. Never is a
 * batch given back: each return would count against the delivery limit of a queue, and while a database is down that would be thousands.
 * What fails at a stop is nobody's trouble.
 */
export async function insist(
  batch: readonly IncomingMessage[],
  onBatch: OnBatch,
  ended: AbortSignal,
  { signal, report }: Pick<Consuming, 'signal' | 'report'>,
): Promise<boolean> {
  for (let failures = 1; !ended.aborted; failures++) {
    try {
      await onBatch(batch)
      return true
    } catch (error) {
      if (signal.aborted || ended.aborted) return false
      const text = `A batch of ${batch.length} messages was not taken: ${describeError(error)}`
      report(error instanceof BrokerError ? error : new BrokerError('retry', text, { cause: error }))
      await pause(reconnectMs(failures, ...againMs), ended)
    }
  }
  return false
}

/** What a delivery weighs in a batch: its body, its headers, and something for each of them. */
export function bytesOf({ topic, key, headers, body }: IncomingMessage): number {
  let bytes = 200 + topic.length + (key?.length ?? 0) + body.byteLength
  for (const name in headers) bytes += 50 + name.length + headers[name]!.length
  return bytes
}

/** How many from `start` on make one batch: as many as stay within both bounds; one, however large it is. */
export function batchLength<Item>(
  items: readonly Item[],
  weigh: (item: Item) => number,
  { batchSize, batchBytes = limits.batchBytes }: Pick<SubscribeOptions, 'batchSize' | 'batchBytes'>,
  start = 0,
): number {
  const end = Math.min(items.length, start + batchSize)
  let bytes = 0
  for (let index = start; index < end; index++) {
    bytes += weigh(items[index]!)
    if (bytes > batchBytes && index > start) return index - start
  }
  return end - start
}
