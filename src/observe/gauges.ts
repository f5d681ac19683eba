import type { Database } from '../database/database.ts'
import type { Asker } from '../database/limited.ts'
import { isConnectionLost } from '../database/sqlstate.ts'
import { watchSql, type Horizon } from '../database/sql/watch.ts'
import {
  boundedLabels,
  labelsMax,
  metrics,
  type Labels,
  type Measurement,
  type MetricName,
} from './metrics.ts'
import { printableLabel } from '../base/printable.ts'
import { readStatus, type BoxStatus } from '../status/status.ts'

export const gaugeNames = (Object.keys(metrics) as MetricName[]).filter(
  (name) => metrics[name].kind === 'gauge',
)

/** Of each kind of holder the oldest. Sessions of other roles can be seen by members of `pg_read_all_stats` only. */
export const readHorizon = (database: Asker): Promise<Horizon[]> =>
  database.query(watchSql(database.schema).horizon)

/**
 * Every gauge, as the database has it. What cannot be read keeps nothing else from being told; if anything cannot,
 * `twinbox_database_up` is 0.
 */
export async function readGauges(database: Database): Promise<Measurement[]> {
  let up = true
  let lost = false
  const attempt = async <Result>(read: () => Promise<Result>): Promise<Result | null> => {
    // After a lost connection, the next one would only wait for the same time-out.
    if (lost) return null
    return read().catch((error: unknown) => {
      up = false
      lost = isConnectionLost(error)
      return null
    })
  }
  const status = await attempt(() => readStatus(database, { topicsMax: labelsMax }))
  const abandoned = await attempt(() => database.query(watchSql(database.schema).abandonedLanes))
  const horizon = await attempt(() => readHorizon(database))
  const found = new Map<string, Measurement>()
  const consumerLabel = boundedLabels()
  const add = (name: MetricName, value: number, given: Labels): void => {
    const labels = Object.fromEntries(
      Object.entries(given).map(([label, text]) => [
        label,
        label === 'consumer' ? consumerLabel(text) : printableLabel(text),
      ]),
    )
    const series = JSON.stringify([name, labels])
    const before = found.get(series)
    // What has no label of its own is told together: how many, and how long at most.
    const sum =
      before === undefined
        ? value
        : name.endsWith('_seconds')
          ? Math.max(before.value, value)
          : before.value + value
    found.set(series, { name, value: sum, labels })
  }
  const boxes: [string, BoxStatus][] =
    status === null
      ? []
      : [['', status.outbox], ...status.consumers.map((box): [string, BoxStatus] => [box.consumer, box])]
  for (const [consumer, box] of boxes) {
    const labels = { consumer }
    // Zero is said as well: a series that is missing raises no alert.
    add('twinbox_lag_seconds', (box.lagMs ?? 0) / 1000, labels)
    add('twinbox_deferred_messages', box.deferred.count, labels)
    add('twinbox_parked_keys', box.parkedKeys.count, labels)
    add('twinbox_parked_messages', box.parkedMessages.count, labels)
    add('twinbox_dead_letters', box.deadLetters.count, labels)
    if (box.topics.length === 0) add('twinbox_depth', 0, { consumer, topic: '' })
    let others = box.depth
    for (const { topic, depth, lagMs } of box.topics) {
      add('twinbox_depth', depth, { consumer, topic })
      add('twinbox_topic_lag_seconds', lagMs / 1000, { consumer, topic })
      others -= depth
    }
    if (box.topicCount > labelsMax) add('twinbox_depth', others, { consumer, topic: 'other' })
  }
  if (abandoned !== null) {
    const consumers = new Set([
      ...boxes.map(([consumer]) => consumer),
      ...abandoned.map(({ consumer }) => consumer),
    ])
    for (const consumer of consumers) {
      const count = abandoned.find((row) => row.consumer === consumer)?.count ?? 0
      add('twinbox_abandoned_lanes', count, { consumer })
    }
  }
  for (const { consumer, paused } of status?.consumers ?? [])
    add('twinbox_paused_topics', paused.length, { consumer })
  const workers = new Map<string, { labels: Labels; count: number }>()
  for (const { kind, consumer, state } of status?.workers ?? []) {
    const labels = { kind, consumer: consumer ?? '', state }
    const id = Object.values(labels).join(' ')
    workers.set(id, { labels, count: (workers.get(id)?.count ?? 0) + 1 })
  }
  for (const { labels, count } of workers.values()) add('twinbox_workers', count, labels)
  for (const { source, holder, age, seconds } of horizon ?? []) {
    add('twinbox_xmin_age_transactions', age, { source, holder })
    add('twinbox_xmin_age_seconds', seconds, { source, holder })
  }
  add('twinbox_database_up', up ? 1 : 0, {})
  return [...found.values()]
}
