import { describeError, warn, type BrokerError } from '../base/errors.ts'
import { limits } from '../base/options.ts'
import type { IncomingMessage, SubscribeOptions, Subscription } from './broker.ts'

export interface Consuming {
  /** Aborted when the subscription is stopped. */
  readonly signal: AbortSignal
  /** To be called when an attempt has come to something, be it a failure. */
  readonly tried: () => void
  /** Tells the subscriber's observer, whose own errors may not end the work. */
  readonly report: (trouble: BrokerError) => void
}

/**
 * Keeps a subscription going, over any number of connections, and among `subscriptions`, until it is stopped. Resolves
 * after its first attempt.
 *
 * @param run the work; it resolves once its signal is aborted, and does not reject
 */
export async function keepConsuming(
  subscriptions: Set<Subscription>,
  { onTrouble }: Pick<SubscribeOptions, 'onTrouble'>,
  run: (consuming: Consuming) => Promise<void>,
): Promise<Subscription> {
  const stopping = new AbortController()
  let tried = (): void => {}
  const triedOnce = new Promise<void>((resolve) => {
    tried = resolve
  })
  const report = (trouble: BrokerError): void => {
    try {
      onTrouble?.(trouble)
    } catch (thrown) {
      warn(`An onTrouble observer threw: ${describeError(thrown)}`)
    }
  }
  const running = run({ signal: stopping.signal, tried, report }).finally(tried)
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
