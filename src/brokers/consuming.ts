import { describeError, type BrokerError } from '../errors.ts'
import type { SubscribeOptions, Subscription } from './broker.ts'

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
      process.emitWarning(`An onTrouble observer threw: ${describeError(thrown)}`, 'TwinboxWarning')
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
