import { takes, patternsMeet } from '../message/message.ts'
import type { DatabaseInput } from '../database/database.ts'
import { subscriptionSql } from '../database/sql/subscription.ts'
import { checkConsumer, refuseUnknown } from '../base/options.ts'
import { withTables } from './tables.ts'
import type { WorkerStatus } from './workers.ts'

/** What a consumer is subscribed to. */
export interface SubscriptionStatus {
  readonly consumer: string
  /** A topic's name, or a pattern. */
  readonly pattern: string
  /** By its name: who keeps the subscription, or whose binding is written down here. */
  readonly broker: string
  readonly since: Date
}

export interface ReadSubscriptionsOptions {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Only those of this consumer. */
  readonly consumer?: string | undefined
}

/** Most that are read. */
export const subscriptionLimit = 2000

/** Reads the subscriptions that last, by consumer. At most 2000. @throws OptionError, SchemaError, or the database's error */
export async function readSubscriptions(
  input: DatabaseInput,
  options: ReadSubscriptionsOptions = {},
): Promise<SubscriptionStatus[]> {
  refuseUnknown('readSubscriptions', options, ['schema', 'consumer'])
  const consumer = options.consumer === undefined ? null : checkConsumer(options.consumer)
  return withTables(input, options.schema, async (database) => {
    const { list } = subscriptionSql(database.schema)
    const rows = await database.query(list, { consumer, limit: subscriptionLimit })
    return rows.map(({ created_at: since, ...row }) => ({ ...row, since }))
  })
}

/** Who serves a subscription: receives what it brings, and has a handler for that. */
export interface Service {
  readonly receivers: readonly WorkerStatus[]
  /** Of a receiver whose version does not say what it receives, nothing can be said. */
  readonly receives: 'yes' | 'no' | 'unsaid'
  readonly claimers: readonly WorkerStatus[]
  /** Handlers of living claimers for topics that the pattern takes. */
  readonly handlers: readonly string[]
  /** `some`: the pattern may take topics without a handler; `unsaid`: a claimer's version does not say what it handles. */
  readonly handles: 'all' | 'some' | 'none' | 'unsaid'
}

/** Judges a subscription by the workers that live. */
export function serviceOf(
  { consumer, pattern }: Pick<SubscriptionStatus, 'consumer' | 'pattern'>,
  workers: readonly WorkerStatus[],
): Service {
  const living = workers.filter((worker) => worker.alive && worker.consumer === consumer)
  const receivers = living.filter(
    ({ kind, topics }) => kind === 'receiver' && (topics === null || topics.includes(pattern)),
  )
  const claimers = living.filter(({ kind }) => kind === 'claimer')
  const handlers = [
    ...new Set(
      claimers.flatMap(({ topics }) => (topics ?? []).filter((topic) => patternsMeet(topic, pattern))),
    ),
  ].toSorted()
  const isName = !/[*#]/.test(pattern)
  const all = handlers.includes('#') || handlers.includes(pattern) || (isName && takes(handlers, pattern))
  const isUnsaid = (list: readonly WorkerStatus[]): boolean => list.some(({ topics }) => topics === null)
  return {
    ...{ receivers, claimers, handlers },
    receives:
      receivers.length === 0 ? 'no' : receivers.every(({ topics }) => topics === null) ? 'unsaid' : 'yes',
    handles: all ? 'all' : isUnsaid(claimers) ? 'unsaid' : handlers.length === 0 ? 'none' : 'some',
  }
}
