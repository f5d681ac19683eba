import type { BrokerError } from '../../base/errors.ts'
import type { IncomingMessage, OnBatch } from '../broker.ts'
import { toTrouble } from './errors.ts'

/** Hands batches over, one at a time, across all consumers that a subscription goes through. */
export interface Handover {
  /** Resolves to whether the batch was taken; not if the consumer has ended before its turn. Never rejects. */
  take(batch: readonly IncomingMessage[], ended: AbortSignal): Promise<boolean>
  /** Whether a batch is in flight. */
  busy(): boolean
  /** Resolves when the batch in flight, if any, has been taken or not. */
  idle(): Promise<unknown>
}

export function createHandover(onBatch: OnBatch, report: (trouble: BrokerError) => void): Handover {
  let running = 0
  let last: Promise<unknown> = Promise.resolve()

  async function handOver(batch: readonly IncomingMessage[], ended: AbortSignal): Promise<boolean> {
    if (ended.aborted) return false
    running++
    try {
      await onBatch(batch)
      return true
    } catch (error) {
      report(toTrouble(`A batch of ${batch.length} messages was not taken`, error))
      return false
    } finally {
      running--
    }
  }

  return {
    // The batch of a consumer that was given up may still be in flight when its successor has one.
    take: (batch, ended) => {
      const taking = last.then(() => handOver(batch, ended))
      last = taking
      return taking
    },
    busy: () => running > 0,
    idle: () => last,
  }
}
