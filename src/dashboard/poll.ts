import type { Database } from '../database/database.ts'
import { dashboardSql, type Waiting } from '../database/sql/dashboard.ts'
import { busyMax } from '../database/layout.ts'
import { operateSql } from '../database/sql/operate.ts'
import { toWorker, workerLimit, type WorkerStatus } from '../operate/workers.ts'
import { comparedMs, flowsOf, type Look, type TopicFlow } from './flows.ts'
import { isHandled, type BoxStatus, type ConsumerStatus, type Count } from '../status/status.ts'

/** How a box stands, by a look at the first messages of its lanes. */
export interface Sampled {
  /** Whether its depth and those of its topics are estimates: there is more than was looked at. */
  readonly estimated: boolean
  /** Messages that came and that went, a second, between the two latest looks, or where not all are counted as workers say; null before. */
  readonly inRate: number | null
  readonly outRate: number | null
  /** The same of its topics, the deepest and the busiest. */
  readonly flows: readonly TopicFlow[]
}

/** What one look at the database has found. */
export interface Poll {
  /** When the workers were read, by the database's clock. */
  readonly at: Date
  /** When the boxes were looked at: at the same time, or some seconds before. */
  readonly lookedAt: Date
  readonly outbox: BoxStatus & Sampled
  readonly consumers: readonly (ConsumerStatus & Sampled)[]
  readonly workers: readonly WorkerStatus[]
}

/** Of each lane, so many messages are looked at. What has fewer is counted exactly. */
const sample = 20
/** And of what came since the look before, so many of each lane, from the end. */
const recent = 8
/** Before the first look, nothing has come since. */
const nothingAfter = { outbox: Number.MAX_SAFE_INTEGER, inbox: Number.MAX_SAFE_INTEGER }
/** Where counting of all else ends. */
const most = 10_000
const topicsMax = 50

/** Of the time, one part in so many is spent with looking at what waits: where that takes long, it is looked at more rarely. */
const sparing = 200
const waitingEveryMs = { min: 1500, max: 15_000 }

/**
 * Two statements at most in one transaction, each ended by the server after two seconds: with its begin, its settings and its commit
 * five go over the wire, also through a pooler. Workers are read each time; what waits is looked at as often as it takes half a hundredth of the time.
 */
export function createReader(database: Database): () => Promise<Poll> {
  const sql = dashboardSql(database.schema)
  let looks: readonly Look[] = []
  let dueAt = -Infinity
  return async () => {
    const startedAt = performance.now()
    const isDue = startedAt >= dueAt
    const latest = looks.at(-1)
    const { row, workers } = await database.look(sql.limitPoll, async (client) => {
      // What came since the look before: a message may come while the statement runs, and is counted the next time.
      const sinceMs = latest === undefined ? 0 : startedAt - latest.at
      const { outbox: outboxSeq, inbox: inboxSeq } = latest?.waiting.newest ?? nothingAfter
      const given = {
        sample,
        recent,
        most,
        topics: topicsMax,
        busy: busyMax + 1,
        sinceMs,
        outboxSeq,
        inboxSeq,
      }
      const [found] = isDue ? await database.run(client, sql.boxes, given) : []
      const tookMs = performance.now() - startedAt
      if (isDue) {
        const { min, max } = waitingEveryMs
        dueAt = startedAt + Math.min(max, Math.max(min, tookMs * sparing))
      }
      const limits = { limit: workerLimit, consumer: null, kind: null }
      return { row: found, workers: await database.run(client, operateSql(database.schema).workers, limits) }
    })
    if (row !== undefined) {
      const look = { waiting: JSON.parse(row.waiting) as Waiting, at: startedAt }
      // All of the last ten seconds, and one from before.
      const young = looks.findIndex(({ at }) => at > startedAt - comparedMs)
      looks = [...looks.slice(young === -1 ? -1 : Math.max(0, young - 1)), look]
    }
    return toPoll(looks, workers.map(toWorker))
  }
}

function toPoll(looks: readonly Look[], workers: readonly WorkerStatus[]): Poll {
  const latest = looks.at(-1)!
  const before = looks.at(-2) ?? null
  const { waiting, at } = latest
  const seconds = before === null ? 0 : (at - before.at) / 1000
  const rate = (count: number | null): number | null =>
    count === null || seconds <= 0 ? null : Math.max(0, count / seconds)
  const { added, removed } = waiting.outbox
  const was = before?.waiting.outbox
  const rates = (consumer: string): Pick<Sampled, 'inRate' | 'outRate'> => {
    if (before === null) return { inRate: null, outRate: null }
    if (consumer === '') return { inRate: rate(added - was!.added), outRate: rate(removed - was!.removed) }
    const received = waiting.received.find((row) => row.consumer === consumer)?.count ?? 0
    const [now, then] = [heldBy(waiting, consumer), heldBy(before.waiting, consumer)]
    const isExact = now.isExact && then.isExact && received < most
    return {
      inRate: rate(received),
      outRate: isExact
        ? rate(then.count + received - now.count)
        : (waiting.told.find((row) => row.consumer === consumer)?.rate ?? 0),
    }
  }
  return {
    at: new Date(waiting.now * 1000 + performance.now() - at),
    lookedAt: toDate(waiting.now),
    workers,
    outbox: { ...boxOf(waiting, ''), ...rates(''), flows: flowsOf('', looks) },
    consumers: waiting.boxes.flatMap(({ consumer, patterns }) =>
      consumer === ''
        ? []
        : [
            {
              consumer,
              ...boxOf(waiting, consumer),
              ...rates(consumer),
              flows: flowsOf(consumer, looks),
              subscriptions: patterns ?? [],
              unhandled: waiting.unhandled
                .filter((row) => row.consumer === consumer)
                .map(({ topic, count, lag_ms: lagMs }) => ({
                  ...{ topic, depth: count, lagMs },
                  hasHandler: isHandled(workers, consumer, topic),
                })),
              paused: waiting.paused
                .filter((row) => row.consumer === consumer)
                .map(({ topic, reason, error, probes, opened_at: since, probe_at: probeAt }) => ({
                  ...{ topic, reason, error, probes },
                  ...{ since: toDate(since), probeAt: toDate(probeAt) },
                })),
            },
          ],
    ),
  }
}

function boxOf(waiting: Waiting, consumer: string): BoxStatus & Pick<Sampled, 'estimated'> {
  const of = <Row extends { readonly consumer: string }>(rows: readonly Row[]): Row[] =>
    rows.filter((row) => row.consumer === consumer)
  const [depth] = of(waiting.depths)
  const unhandled = of(waiting.unhandled)
  const topics = of(waiting.topics)
  const aside = unhandled.reduce((sum, { count }) => sum + count, 0)
  const lags = [...(depth === undefined ? [] : [depth]), ...unhandled].map(({ lag_ms: lagMs }) => lagMs)
  const countOf = (what: string): Count => {
    const count = of(waiting.counts).find((row) => row.what === what)?.count ?? 0
    return { count, more: count >= most }
  }
  return {
    depth: (depth?.depth ?? 0) + aside,
    estimated: depth?.estimated ?? false,
    more: aside >= most,
    lagMs: lags.length === 0 ? null : Math.max(...lags),
    topics: topics.map(({ topic, depth: size, lag_ms: lagMs }) => ({ topic, depth: size, lagMs })),
    topicCount: topics[0]?.topics ?? 0,
    deferred: countOf('deferred'),
    parkedKeys: countOf('parked'),
    parkedMessages: countOf('parked_message'),
    deadLetters: countOf('dead_letter'),
  }
}

/** All messages of a consumer, wherever they wait or have died: of those that were received, the others were handled. */
function heldBy(waiting: Waiting, consumer: string): { readonly count: number; readonly isExact: boolean } {
  const box = boxOf(waiting, consumer)
  const counts = [box.deferred, box.parkedMessages, box.deadLetters]
  return {
    count: counts.reduce((sum, { count }) => sum + count, box.depth),
    isExact: !box.estimated && !box.more && !counts.some(({ more }) => more),
  }
}

const toDate = (seconds: number): Date => new Date(seconds * 1000)
