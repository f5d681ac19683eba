import type { Broker } from '../brokers/broker.ts'
import type { Database } from '../database/database.ts'
import { subscriptionSql } from '../database/sql/subscription.ts'
import type { Emit } from '../base/events.ts'
import { startLoop, type Loop, type LoopOptions } from '../base/loop.ts'

export interface Subscribing {
  readonly broker: Broker
  readonly consumer: string
  readonly topics: readonly string[]
  /** 0: never. */
  readonly unsubscribeAfterMs: number
}

const everyMs = 60_000

/**
 * Writes down, again and again, what a receiver is subscribed to, and unsubscribes the consumer from what its receivers do
 * not name any more.
 *
 * In a rolling deploy, and after one that was taken back, receivers live that name more than this one. So a pattern ends
 * only when no receiver has named it for `unsubscribeAfterMs`. The broker comes first: if it cannot be reached, the
 * pattern stays written down, and the next round tries again.
 */
export function keepSubscribed(
  database: Database,
  { broker, consumer, topics, unsubscribeAfterMs }: Subscribing,
  emit: Emit,
  reports: LoopOptions,
): Loop {
  const sql = subscriptionSql(database.schema)
  return startLoop(async () => {
    await database.query(sql.subscribe, { consumer, patterns: topics, broker: broker.name })
    if (unsubscribeAfterMs > 0) {
      const rule = { consumer, broker: broker.name, patterns: topics, afterMs: unsubscribeAfterMs }
      const unwanted = await database.query(sql.unwanted, rule)
      const patterns = unwanted.map(({ pattern }) => pattern)
      if (patterns.length > 0) {
        await broker.unsubscribe?.({ consumer, topics: patterns })
        await database.query(sql.endUnwanted, { ...rule, ended: patterns })
        emit({ type: 'unsubscribed', topics: patterns })
      }
    }
    return everyMs * (0.5 + Math.random())
  }, reports)
}
