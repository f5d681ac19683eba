import { openDatabase, type Database, type DatabaseInput, type Statement } from './database/database.ts'
import { checkSchemaVersion } from './database/migrate.ts'
import { operateSql } from './database/sql/operate.ts'
import { statusSql } from './database/sql/status.ts'
import { toWorker, type WorkerRow, type WorkerStatus } from './operate.ts'

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
  /** Waiting or in hand. */
  readonly depth: number
  /** Whether there are more than were counted. Then the topics' depths are lower bounds too. */
  readonly more: boolean
  /** Age of the oldest message in milliseconds, or null if there is none. */
  readonly lagMs: number | null
  readonly topics: readonly TopicStatus[]
  /** Waiting for a time. */
  readonly deferred: Count
  /** Keys that are held back, and the messages that wait behind them. */
  readonly parkedKeys: Count
  readonly parkedMessages: Count
  readonly deadLetters: Count
}

export interface ConsumerStatus extends BoxStatus {
  readonly consumer: string
  /** Topic patterns, with the Postgres broker. */
  readonly subscriptions: readonly string[]
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

/** Reads what waits, who works, and what has failed, in one snapshot. @throws SchemaError, or the database's error */
export async function readStatus(input: DatabaseInput, options: { schema?: string } = {}): Promise<Status> {
  const { database, owned } = openDatabase(input, { ...options, poolSize: 2 })
  try {
    await checkSchemaVersion(database)
    return await read(database)
  } finally {
    if (owned) await database.close()
  }
}

interface CountRow {
  readonly consumer: string
  readonly count: number
}

async function read(database: Database): Promise<Status> {
  const sql = statusSql(database.schema)
  return database.transaction(async (client) => {
    await client.query(sql.begin)
    await client.query(sql.limit)
    const rows = <Row>(statement: Statement, limit?: number): Promise<Row[]> =>
      database.run<Row>(client, statement, limit === undefined ? [] : [limit])
    const counted = <Row extends CountRow>(statement: Statement): Promise<Row[]> =>
      rows<Row>(statement, countLimit + 1)
    const [version] = await rows<{ version: number }>({ text: sql.version })
    const counts = {
      deferred: await counted(sql.deferred),
      parkedKeys: await counted(sql.parkedKeys),
      parkedMessages: await counted(sql.parkedMessages),
      deadLetters: await counted(sql.deadLetters),
    }
    const depth = [
      ...(await counted<DepthRow>(sql.outboxDepth)),
      ...(await counted<DepthRow>(sql.inboxDepth)),
    ]
    const lag = [...(await rows<LagRow>(sql.outboxLag)), ...(await rows<LagRow>(sql.inboxLag))]
    const boxOf = (consumer: string): BoxStatus => {
      const topics = depth.filter((row) => row.consumer === consumer)
      const total = topics.reduce((sum, { count }) => sum + count, 0)
      const count = (among: readonly CountRow[]): Count =>
        limited(among.find((row) => row.consumer === consumer)?.count ?? 0)
      return {
        depth: Math.min(total, countLimit),
        more: total > countLimit,
        lagMs: total === 0 ? null : (lag.find((row) => row.consumer === consumer)?.lag_ms ?? null),
        topics: topics.map(({ topic, count: size, lag_ms: lagMs }) => ({
          topic,
          depth: Math.min(size, countLimit),
          lagMs,
        })),
        deferred: count(counts.deferred),
        parkedKeys: count(counts.parkedKeys),
        parkedMessages: count(counts.parkedMessages),
        deadLetters: count(counts.deadLetters),
      }
    }
    const consumers = await rows<{ consumer: string; patterns: string[] | null }>(sql.consumers)
    const workers = await database.run<WorkerRow>(client, operateSql(database.schema).workers, [
      workerLimit,
      null,
      null,
    ])
    const letters = await rows<Omit<DeadLetterStatus, 'diedAt'> & { died_at: Date }>(
      sql.latestDeadLetters,
      deadLetterLimit,
    )
    return {
      schema: database.schema,
      migration: version!.version,
      at: new Date(),
      outbox: boxOf(''),
      consumers: consumers.map(({ consumer, patterns }) => ({
        consumer,
        subscriptions: patterns ?? [],
        ...boxOf(consumer),
      })),
      workers: workers.map(toWorker),
      deadLetters: letters.map(({ died_at: diedAt, consumer, ...letter }) => ({
        ...letter,
        diedAt,
        consumer: consumer === '' ? null : consumer,
      })),
    }
  })
}

interface DepthRow extends CountRow {
  readonly topic: string
  readonly lag_ms: number
}

interface LagRow {
  readonly consumer: string
  readonly lag_ms: number
}

const limited = (count: number): Count => ({ count: Math.min(count, countLimit), more: count > countLimit })
