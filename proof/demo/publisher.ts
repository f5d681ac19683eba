import type { Database } from '../../src/database/database.ts'
import { isConflict } from '../../src/database/sqlstate.ts'
import { withTransaction } from '../../src/database/transaction.ts'
import { demoSql } from '../sql/demo.ts'
import { createOutbox } from '../../src/outbox/outbox.ts'
import { hashOf, readWebhooks, type Webhook } from './webhooks.ts'
import type { DemoRun } from './run.ts'

export interface Published {
  readonly published: number
  readonly rolledBack: number
  /** Webhooks that came a second time and were recognised. */
  readonly duplicates: number
}

/** How many business transactions run at a time. */
const concurrency = 4

/** Stands for whatever a business transaction can fail with after it has published. */
class RolledBack extends Error {}

/**
 * Takes the webhooks in as an application would: each in a transaction that counts it for its repository, enters it
 * in the ledger and publishes it. One in ten is rolled back at first and comes again, and one in fifty comes twice,
 * as GitHub does it when it gets no answer in time.
 */
export async function publishAll(
  run: DemoRun,
  database: Database,
  mayProceed: Promise<void>,
): Promise<Published> {
  const webhooks = readWebhooks()
  const outbox = createOutbox({ schema: run.schema })
  const sql = demoSql(run.schema)
  const half = Math.ceil(run.messages / 2)
  let next = 0
  let rolledBack = 0
  let duplicates = 0

  const takeIn = (webhook: Webhook, delivery: string, fails: boolean): Promise<boolean> =>
    withTransaction(database, async (client) => {
      const { topic, key, payload } = webhook
      const counted = key === null ? [] : await database.run(client, sql.advance, { name: key })
      const { id, duplicate } = await outbox.publish(client, { topic, key, payload, dedupeKey: delivery })
      // Committing would count it twice for its repository.
      if (duplicate) throw new RolledBack()
      await database.run(client, sql.record, {
        ...{ id, topic, key },
        nth: counted[0]?.events ?? null,
        hash: hashOf(payload),
      })
      if (fails) throw new RolledBack()
      return true
    }).catch((error: unknown) => {
      if (error instanceof RolledBack) return false
      // By the database's own isolation level, two webhooks may meet instead of waiting for each other.
      if (isConflict(error)) return takeIn(webhook, delivery, fails)
      throw error
    })

  const publishSome = async (): Promise<void> => {
    while (next < run.messages) {
      const number = next++
      if (number >= half) await mayProceed
      const webhook = webhooks[number % webhooks.length]!
      const delivery = `${run.name}-${number}`
      if (number % 10 === 3) {
        await takeIn(webhook, delivery, true)
        rolledBack++
      }
      if (!(await takeIn(webhook, delivery, false))) {
        throw new Error(
          `Webhook ${delivery} was taken for a duplicate, although it had only been rolled back.`,
        )
      }
      if (number % 50 === 7) {
        if (await takeIn(webhook, delivery, false)) throw new Error(`Webhook ${delivery} was taken in twice.`)
        duplicates++
      }
    }
  }
  await Promise.all(Array.from({ length: concurrency }, publishSome))
  return { published: run.messages, rolledBack, duplicates }
}
