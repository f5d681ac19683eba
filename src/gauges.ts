import type { Database } from './database/database.ts'
import { watchSql } from './database/sql/watch.ts'
import { metrics, type Labels, type Measurement, type MetricName } from './metrics.ts'
import { readStatus, type BoxStatus } from './status.ts'

export const gaugeNames = (Object.keys(metrics) as MetricName[]).filter(
  (name) => metrics[name].kind === 'gauge',
)

/** Who keeps dead rows from being removed, and since how many transactions and seconds. */
export interface Horizon {
  readonly source: 'session' | 'standby' | 'replication slot' | 'prepared transaction'
  /** A pid, a slot's name, a transaction's gid. */
  readonly name: string
  /** A role, or a slot's name. */
  readonly holder: string
  readonly application: string
  readonly pid: number | null
  readonly age: number
  readonly seconds: number
}

/** Of each kind of holder the oldest. Sessions of other roles can be seen by members of `pg_read_all_stats` only. */
export const readHorizon = (database: Database): Promise<Horizon[]> =>
  database.query<Horizon>(watchSql(database.schema).horizon)

/** As in metrics.ts: each topic is a time series. */
const topicsMax = 200

/** Every gauge, as the database has it. If it is out of reach, only that. */
export async function readGauges(database: Database): Promise<Measurement[]> {
  try {
    return [...(await read(database)), { name: 'twinbox_database_up', value: 1, labels: {} }]
  } catch {
    return [{ name: 'twinbox_database_up', value: 0, labels: {} }]
  }
}

async function read(database: Database): Promise<Measurement[]> {
  const status = await readStatus(database)
  const orphaned = await database.query<{ consumer: string; count: number }>(
    watchSql(database.schema).orphanedLanes,
  )
  const found: Measurement[] = []
  const add = (name: MetricName, value: number, labels: Labels): void =>
    void found.push({ name, value, labels })
  const boxes: [string, BoxStatus][] = [
    ['', status.outbox],
    ...status.consumers.map((box): [string, BoxStatus] => [box.consumer, box]),
  ]
  for (const [consumer, box] of boxes) {
    const labels = { consumer }
    // Zero is said as well: a series that is missing raises no alert.
    add('twinbox_lag_seconds', (box.lagMs ?? 0) / 1000, labels)
    add('twinbox_deferred_messages', box.deferred.count, labels)
    add('twinbox_parked_keys', box.parkedKeys.count, labels)
    add('twinbox_parked_messages', box.parkedMessages.count, labels)
    add('twinbox_dead_letters', box.deadLetters.count, labels)
    add('twinbox_orphaned_lanes', orphaned.find((row) => row.consumer === consumer)?.count ?? 0, labels)
    if (box.topics.length === 0) add('twinbox_depth', 0, { consumer, topic: '' })
    for (const { topic, depth, lagMs } of box.topics.slice(0, topicsMax)) {
      add('twinbox_depth', depth, { consumer, topic })
      add('twinbox_topic_lag_seconds', lagMs / 1000, { consumer, topic })
    }
    const others = box.topics.slice(topicsMax)
    if (others.length > 0) {
      const depth = others.reduce((sum, topic) => sum + topic.depth, 0)
      add('twinbox_depth', depth, { consumer, topic: 'other' })
    }
  }
  const workers = new Map<string, { labels: Labels; count: number }>()
  for (const { kind, consumer, state } of status.workers) {
    const labels = { kind, consumer: consumer ?? '', state }
    const id = Object.values(labels).join(' ')
    workers.set(id, { labels, count: (workers.get(id)?.count ?? 0) + 1 })
  }
  for (const { labels, count } of workers.values()) add('twinbox_workers', count, labels)
  for (const { source, holder, age, seconds } of await readHorizon(database)) {
    add('twinbox_xmin_age_transactions', age, { source, holder })
    add('twinbox_xmin_age_seconds', seconds, { source, holder })
  }
  return found
}
