import type { Parameters } from '../database/sql/parameter.ts'
import type { Given, Statement } from '../database/sql/statement.ts'
import { openDatabase, type Database, type DatabaseInput } from '../database/database.ts'
import { checkSchemaVersion } from '../database/migrate.ts'
import { refuseUnknown, readNumbers } from '../base/options.ts'
import { operateSql } from '../database/sql/operate.ts'
import { statusSql, type CountRow, type LagRow } from '../database/sql/status.ts'
import { takes } from '../message/message.ts'
import { readPaused, type PausedTopic } from './paused.ts'
import { toWorker, type WorkerStatus } from '../operate/workers.ts'

/** How many of something there are; with `more`, at least so many, since counting ends somewhere. */
export interface Count {
  readonly count: number
  readonly more: boolean
}

export interface TopicStatus {
  readonly topic: string
  readonly depth: number
  /** Age of the oldest, in milliseconds; if `more` is set above, of the oldest that was counted. */
  readonly lagMs: number
}

/** The outbox, or the inbox of one consumer. */
export interface BoxStatus {
  /** Waiting or in flight. */
  readonly depth: number
  /** Whether there are more than were counted. Then the topics' depths are lower bounds too. */
  readonly more: boolean
  /** Age of the oldest message in milliseconds, or null if there is none. */
  readonly lagMs: number | null
  /** The largest, by their depth. */
  readonly topics: readonly TopicStatus[]
  /** How many topics there are among the messages that were counted. */
  readonly topicCount: number
  /** Waiting for a time. */
  readonly deferred: Count
  /** Keys that are held back, and the messages that wait behind them. */
  readonly parkedKeys: Count
  readonly parkedMessages: Count
  readonly deadLetters: Count
}

export interface ConsumerStatus extends BoxStatus {
  readonly consumer: string
  /** Topic patterns, as its receivers have subscribed to them. */
  readonly subscriptions: readonly string[]
  /** Topics of messages that wait for a claimer with a handler for them; they are counted in the depth too. */
  readonly unhandled: readonly UnhandledTopic[]
  /** Topics that pause, since what their handlers need is away. */
  readonly paused: readonly PausedTopic[]
}

export type { PausedTopic } from './paused.ts'

export interface UnhandledTopic extends TopicStatus {
  /** Whether a living claimer has a handler, so that they are on their way. */
  readonly hasHandler: boolean
}

export interface DeadLetterStatus {
  readonly number: number
  readonly diedAt: Date
  readonly id: string
  /** Null for the outbox. */
  readonly consumer: string | null
  readonly topic: string
  readonly key: string | null
  readonly attempt: number
  readonly reason: string
}

export interface Status {
  readonly schema: string
  readonly migration: number
  readonly at: Date
  readonly outbox: BoxStatus
  readonly consumers: readonly ConsumerStatus[]
  readonly workers: readonly WorkerStatus[]
  /** The latest. */
  readonly deadLetters: readonly DeadLetterStatus[]
}

const countLimit = 100_000
const workerLimit = 200
const deadLetterLimit = 20

/** Where the tables are, and how much of them is told. */
export interface StatusOptions {
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /** The most topics of a box that are told one by one; the others are counted. @default 20 */
  readonly topicsMax?: number | undefined
}

/**
 * Reads what waits, who works, and what has failed, in one snapshot. What it reads and what it returns is bounded, however
 * much there is.
 * @throws OptionError, SchemaError, or the database's error
 */
export async function readStatus(input: DatabaseInput, options: StatusOptions = {}): Promise<Status> {
  refuseUnknown('readStatus', options, ['schema', 'topicsMax'])
  const { topicsMax } = readNumbers(options, ['topicsMax'])
  const { database, owned } = openDatabase(input, { schema: options.schema, poolSize: 2 })
  try {
    await checkSchemaVersion(database)
    return await read(database, topicsMax)
  } finally {
    if (owned) await database.close()
  }
}

async function read(database: Database, topicsMax: number): Promise<Status> {
  const sql = statusSql(database.schema)
  return database.transaction(async (client) => {
    await client.query(sql.begin)
    await client.query(sql.limit)
    const rows = <Takes extends Parameters, Row>(statement: Statement<Takes, Row>, ...given: Given<Takes>) =>
      database.run(client, statement, ...given)
    const most = countLimit + 1
    const [version] = await rows(sql.version)
    const counts = {
      deferred: await rows(sql.deferred, { most }),
      parkedKeys: await rows(sql.parkedKeys, { most }),
      parkedMessages: await rows(sql.parkedMessages, { most }),
      deadLetters: await rows(sql.deadLetters, { most }),
    }
    const limits = { most, topics: topicsMax }
    const depth = [...(await rows(sql.outboxDepth, limits)), ...(await rows(sql.inboxDepth, limits))]
    const unhandled = await rows(sql.unhandled, limits)
    const lag = [...(await rows(sql.outboxLag)), ...(await rows(sql.inboxLag))]
    const boxOf = (consumer: string): BoxStatus => {
      const topics = depth.filter((row) => row.consumer === consumer)
      const { total, topics: topicCount } = topics[0] ?? { total: 0, topics: 0 }
      const count = (among: readonly CountRow[]): Count =>
        limited(among.find((row) => row.consumer === consumer)?.count ?? 0)
      return {
        depth: Math.min(total, countLimit),
        more: total > countLimit,
        lagMs: total === 0 ? null : oldest([...lag, ...unhandled].filter((row) => row.consumer === consumer)),
        topics: topics.map(({ topic, count: size, lag_ms: lagMs }) => ({
          topic,
          depth: Math.min(size, countLimit),
          lagMs,
        })),
        topicCount,
        deferred: count(counts.deferred),
        parkedKeys: count(counts.parkedKeys),
        parkedMessages: count(counts.parkedMessages),
        deadLetters: count(counts.deadLetters),
      }
    }
    const paused = await readPaused({ schema: database.schema, query: rows })
    const consumers = await rows(sql.consumers)
    const workers = await rows(operateSql(database.schema).workers, {
      limit: workerLimit,
      consumer: null,
      kind: null,
    })
    const working = workers.map(toWorker)
    const unhandledBy = (consumer: string): UnhandledTopic[] =>
      unhandled.flatMap(({ consumer: of, topic, count, lag_ms: lagMs }) => {
        if (of !== consumer) return []
        const hasHandler = isHandled(working, consumer, topic)
        return [{ topic, depth: Math.min(count, countLimit), lagMs, hasHandler }]
      })
    const letters = await rows(sql.latestDeadLetters, { most: deadLetterLimit })
    return {
      schema: database.schema,
      migration: version!.version,
      at: new Date(),
      outbox: boxOf(''),
      consumers: consumers.map(({ consumer, patterns }) => ({
        consumer,
        subscriptions: patterns ?? [],
        ...boxOf(consumer),
        unhandled: unhandledBy(consumer),
        paused: paused.flatMap(({ consumer: of, ...topic }) => (of === consumer ? [topic] : [])),
      })),
      workers: working,
      deadLetters: letters.map(({ died_at: diedAt, consumer, ...letter }) => ({
        ...letter,
        diedAt,
        consumer: consumer === '' ? null : consumer,
      })),
    }
  })
}

/** Whether a living claimer of this consumer has a handler for the topic. */
export const isHandled = (workers: readonly WorkerStatus[], consumer: string, topic: string): boolean =>
  workers.some(
    (worker) =>
      worker.kind === 'claimer' &&
      worker.alive &&
      worker.consumer === consumer &&
      takes(worker.topics ?? [], topic),
  )

const oldest = (rows: readonly LagRow[]): number | null =>
  rows.length === 0 ? null : Math.max(...rows.map(({ lag_ms: lagMs }) => lagMs))

const limited = (count: number): Count => ({ count: Math.min(count, countLimit), more: count > countLimit })
