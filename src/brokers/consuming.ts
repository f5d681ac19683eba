import { describeError, type BrokerError } from '../errors.ts'
import type { SubscribeOptions } from './broker.ts'

/** A subscription's work that goes on, over any number of connections, until it is stopped. */
export interface Consuming {
  /** Resolves when what was under way has been finished or given up. */
  readonly stop: () => Promise<void>
  /** Resolves when the first attempt has come to something, be it a failure. */
  readonly triedOnce: Promise<void>
}

export interface ConsumingParts {
  /** Aborted by `stop`. */
  readonly signal: AbortSignal
  /** To be called when an attempt has come to something. */
  readonly tried: () => void
  /** Tells the subscriber's observer, whose own errors may not end the work. */
  readonly report: (trouble: BrokerError) => void
}

/** @param run the work; it resolves once its signal is aborted, and does not reject */
export function keepConsuming(
  { onTrouble }: Pick<SubscribeOptions, 'onTrouble'>,
  run: (parts: ConsumingParts) => Promise<void>,
): Consuming {
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
  return {
    triedOnce,
    stop: async () => {
      stopping.abort()
      await running
    },
  }
}
