import type { Broker } from '../brokers/broker.ts'
import { postgres } from '../brokers/postgres/postgres.ts'
import type { AnyConsumerConfig, ConsumerConfig, LibraryConsumerConfig } from '../config.ts'
import { createWorkers } from '../workers.ts'
import type { Database } from '../database/database.ts'
import { subscriptionSql } from '../database/sql/subscription.ts'
import { testingSql, type LeftRow } from '../database/sql/testing.ts'
import { OptionError } from '../base/errors.ts'
import type { TwinboxEvent } from '../base/events.ts'
import { readBoolean, refuseUnknown, whole } from '../base/options.ts'
import type { Topics } from '../topics/topics.ts'
import type { RegisteredTopics } from '../topics/types.ts'
import { Progress, type FailedHandling } from './progress.ts'
import { notSettled, thrownBy } from './failures.ts'
import { refuseUnsafe } from './safety.ts'

/** A consumer as `twinbox.config` describes it; the topics are those of its handlers unless it names them. */
export type SettledConsumer<Tables = unknown, Defined extends Topics = RegisteredTopics, Tx = unknown> =
  Brief<ConsumerConfig<Tables, Defined>> | Brief<LibraryConsumerConfig<Tx, Defined>>

type Brief<Whole> = Omit<Whole, 'topics' | 'circuit'> & Partial<Pick<ConsumerConfig, 'topics' | 'circuit'>>

export interface SettleOptions<Tables = unknown, Defined extends Topics = RegisteredTopics, Tx = unknown> {
  /** By name, as in `twinbox.config`: what each receives, and what handles it. */
  readonly consumers: Readonly<Record<string, SettledConsumer<Tables, Defined, Tx>>>
  /** Over which it is sent. It is not closed. @default postgres(…) in the test schema, where what nobody takes is dropped and told */
  readonly broker?: Broker | undefined
  /** How long it may take once the workers have started. In milliseconds. @default 4000, less than the 5 s after which vitest and jest end a test */
  readonly timeoutMs?: number | undefined
  /** Whether what handlers threw is thrown. @default true; with false it stands in `failed` */
  readonly rethrow?: boolean | undefined
}

/** Messages that stay where they are. */
export interface Left {
  readonly topic: string
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly count: number
}

/** What was done, and what is left where. */
export interface Settled {
  /** How many messages were sent, and how many were handled: each consumer's count. */
  readonly sent: number
  readonly handled: number
  /** Only with `rethrow: false` is there ever one. */
  readonly failed: readonly FailedHandling[]
  /** Messages that were sent and that no consumer takes: with the broker that was not given they are gone. */
  readonly unsubscribed: readonly Omit<Left, 'consumer'>[]
  readonly left: {
    /** Published for later. */
    readonly delayed: readonly Left[]
    /** Behind a failed attempt, for the pause before the next; with a key, all that is behind it in its key as well. */
    readonly retrying: readonly Left[]
    /** Behind a dead letter of their key, until an operator decides. */
    readonly parked: readonly Left[]
    readonly dead: readonly Left[]
    /** For whose topic their consumer has no handler. */
    readonly unhandled: readonly Left[]
    /** Of consumers that were not given. */
    readonly elsewhere: readonly Left[]
  }
}

const pollMs = 25

/** See `settle` of `TestSchema`. */
export async function settleIn(
  database: Database,
  topics: Topics | null,
  options: SettleOptions,
): Promise<Settled> {
  refuseUnknown('settle', options, ['consumers', 'broker', 'timeoutMs', 'rethrow'])
  if (typeof options.consumers !== 'object' || options.consumers === null)
    throw new OptionError(
      'consumers',
      'settle needs consumers by name: { consumers: { billing: { handlers } } }.',
    )
  const timeoutMs = whole('timeoutMs', options.timeoutMs, 4000, 1, 3_600_000)
  const rethrow = readBoolean('rethrow', options.rethrow, true)
  const consumers = Object.entries(options.consumers).map(([name, given]) => describe(name, given))
  const sql = testingSql(database.schema)
  await refuseUnsafe(database, 'settle', true)
  const progress = new Progress(consumers)
  const broker = options.broker ?? postgres({ database, unroutable: 'drop' })
  // A handler that does not end is not waited for a second time.
  const onEvent = (event: TwinboxEvent): void => progress.onEvent(event)
  const workers = createWorkers({
    kinds: ['receiver', 'claimer', 'relay'],
    consumers: consumers.map(({ name, config }) => [name, config] as const),
    topics: topics ?? undefined,
    broker: progress.watch(broker),
    shared: { database, stopTimeoutMs: 500, onEvent },
    pacingOf: (consumer) => ({ retryIn: ({ id }, ms) => progress.pause(consumer, id, ms) }),
  })
  let left: readonly LeftRow[]
  try {
    // Who subscribes comes before who sends.
    for (const first of [true, false])
      await Promise.all(
        workers.filter(({ kind }) => (kind === 'receiver') === first).map((worker) => worker.start()),
      )
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const before = progress.sent
      left = await database.query(sql.left, progress.underWay())
      const waiting = left.filter((row) => progress.waits(row))
      // What was sent since then was not asked for, and may have left the outbox.
      if (waiting.length === 0 && progress.sent === before) break
      const restMs = deadline - performance.now()
      if (restMs <= 0) throw notSettled(timeoutMs, waiting, progress)
      await progress.next(Math.min(pollMs, restMs))
    }
  } finally {
    await Promise.allSettled(workers.map((worker) => worker.stop()))
    await progress.writePauses(database)
    if (options.broker === undefined) await broker.close()
  }
  const { failed, sent, handled } = progress
  if (rethrow && failed.length > 0) throw thrownBy(failed)
  const subscriptions = await database.query(subscriptionSql(database.schema).all)
  const taken = subscriptions.filter(({ ended }) => !ended).map(({ pattern }) => pattern)
  return { sent, handled, failed, unsubscribed: progress.unsubscribed(taken), left: toLeft(left, progress) }
}

interface Described {
  readonly name: string
  readonly config: AnyConsumerConfig
}

/** @throws OptionError */
function describe(name: string, given: SettledConsumer): Described {
  if (typeof given?.handlers !== 'object' || given.handlers === null)
    throw new OptionError(
      'consumers',
      `The consumer "${name}" needs handlers: { handlers: { 'order.placed': … } }.`,
    )
  // A topic that pauses would be tried again after a second: each message is to be attempted now, and once.
  return {
    name,
    config: {
      ...given,
      circuit: given.circuit ?? false,
      topics: given.topics ?? Object.keys(given.handlers),
    },
  }
}

function toLeft(rows: readonly LeftRow[], progress: Progress): Settled['left'] {
  const of = (wanted: (row: LeftRow) => boolean): Left[] => {
    const counts = new Map<string, Left>()
    for (const { consumer, topic, count } of rows.filter(wanted)) {
      const before = counts.get(`${consumer} ${topic}`)?.count ?? 0
      counts.set(`${consumer} ${topic}`, { topic, consumer: consumer || null, count: before + count })
    }
    return [...counts.values()]
  }
  const at = (place: LeftRow['place']): Left[] => of((row) => row.place === place)
  return {
    delayed: at('delayed'),
    retrying: at('retrying'),
    parked: at('parked'),
    dead: at('dead'),
    unhandled: at('unhandled'),
    elsewhere: of(({ place, consumer }) => place === 'inbox' && !progress.isOurs(consumer)),
  }
}
