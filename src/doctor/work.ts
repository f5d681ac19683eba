import type { Asker } from '../database/limited.ts'
import { doctorSql } from '../database/sql/doctor.ts'
import { statusSql } from '../database/sql/status.ts'
import { ms } from '../base/times.ts'
import { boxOf } from '../status/box.ts'
import { takes } from '../message/message.ts'
import { readPaused, tellPaused } from '../status/paused.ts'
import { note, orFine, wrong, type Finding } from './finding.ts'

/** Work that nobody does. */
export async function examineWork(database: Asker): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).consumers)
  const findings = rows.flatMap(
    ({ consumer, waits, workers, stuck, below, subscribed, lately }): Finding[] => {
      const { box, worker, command } = boxOf(consumer)
      const found: Finding[] = []
      if (waits && workers === 0) {
        found.push(
          wrong('work', `Messages wait in ${box}, and no ${worker} is running.`, `Start one: ${command}`),
        )
      } else if (stuck > 0) {
        found.push(
          wrong(
            'work',
            `${stuck} lanes of ${box} have messages in them, and nobody has taken them for 30 s.`,
            `See "twinbox workers" and the logs of the ${worker}s; as a last resort, start them again.`,
          ),
        )
      }
      if (below > 0) {
        found.push(
          wrong(
            'work',
            `${below} lanes of ${box} have messages in them below where all were known to be done: a sequence has gone back, by a restore, a switch to a replica or a truncation.`,
            `A ${worker} finds them when it starts, or within some minutes. Of one key, they may go before what is older, or after what is newer.`,
          ),
        )
      }
      if (subscribed && lately === 0) {
        found.push(
          wrong(
            'subscriptions',
            `The consumer "${consumer}" is subscribed, but none of its workers has run for an hour: what is sent to it piles up.`,
            `Start its workers, or unsubscribe it: twinbox unsubscribe --consumer ${consumer}, with what "twinbox status --json" shows.`,
          ),
        )
      }
      return found
    },
  )
  findings.push(
    ...(await examineBacklog(database)),
    ...(await examineWaiting(database)),
    ...(await examineTopics(database)),
    ...(await examineDead(database)),
    ...(await examineCircuits(database)),
    ...(await examineHandlers(database)),
    ...(await examineBrokers(database)),
  )
  return orFine(findings, 'work', 'Whatever waits has somebody to work on it.')
}

const backlogMs = 10 * 60_000
/** Counting ends there. */
const backlogMax = 1_000_000

/** Boxes with what waits too long: more comes than goes, or it does not go at all. */
async function examineBacklog(database: Asker): Promise<readonly Finding[]> {
  const sql = statusSql(database.schema)
  const lags = [...(await database.query(sql.outboxLag)), ...(await database.query(sql.inboxLag))].filter(
    ({ lag_ms: lagMs }) => lagMs > backlogMs,
  )
  if (lags.length === 0) return []
  const values = { most: backlogMax, topics: 3 }
  const depths = [
    ...(await database.query(sql.outboxDepth, values)),
    ...(await database.query(sql.inboxDepth, values)),
  ]
  return lags.map(({ consumer, lag_ms: lagMs }) => {
    const topics = depths.filter((row) => row.consumer === consumer)
    const most = topics.map(({ topic, count }) => `${topic} ${count}`).join(', ')
    return note(
      'work',
      `${topics[0]?.total ?? 0} messages wait in ${boxOf(consumer).box}, the oldest for ${ms(lagMs)}. Most are of: ${most}.`,
      consumer === ''
        ? 'See "Depth grows" in the runbook; maxPending of createOutbox bounds what may wait.'
        : 'See "Depth grows" in the runbook: more claimers, more concurrency, or whoever publishes so much.',
    )
  })
}

/** What the broker refuses for now, or holds for somebody who is away. */
async function examineWaiting(database: Asker): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).waitingKeys)
  return rows.map(({ reason, count }) =>
    note(
      'work',
      `${count} keys of the outbox wait for another attempt: ${reason}`,
      'They are tried again by themselves. See them: twinbox parked list --outbox.',
    ),
  )
}

/** So many are told of one by one. */
const topicsMax = 20

/** Messages that wait since none of the living claimers has a handler for their topic. */
async function examineTopics(database: Asker): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).unhandled)
  const nobodys = rows.filter(({ topic, patterns }) => !takes(patterns, topic))
  const findings = nobodys
    .slice(0, topicsMax)
    .map(({ consumer, topic, count }) =>
      wrong(
        'topics',
        `${consumer} receives ${topic}, and no living claimer has a handler: ${count} messages wait.`,
        "Start a claimer that has one; or if nobody wants them, one with unknown: 'drop', and stop receiving the topic.",
      ),
    )
  const more = nobodys.length - findings.length
  return more === 0
    ? findings
    : [...findings, wrong('topics', `So it is with ${more} further topics.`, 'See "twinbox messages list".')]
}

/** Topics that pause, since what their handlers need is away. */
async function examineCircuits(database: Asker): Promise<readonly Finding[]> {
  return (await readPaused(database)).map((topic) =>
    wrong(
      'circuits',
      `${topic.consumer} ${tellPaused(topic)} (UTC), ${topic.probes} tries.`,
      `Its handlers fail with: ${(topic.error === '' ? topic.reason : topic.error).replace(/\.$/, '')}. Nothing is counted; it goes on by itself at the first success.`,
    ),
  )
}

/** Handlers that do not end. */
async function examineHandlers(database: Asker): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).stuck)
  return rows.map(({ id, consumer, host, pid, topic, for_ms: forMs }) =>
    wrong(
      'handlers',
      `A handler of ${topic} has not ended for ${ms(forMs)}, in worker ${id} of ${consumer} (process ${pid} on ${host}).`,
      'Set handleTimeoutMs, longer than the handler may take; until then, start that process again.',
    ),
  )
}

/** Relays that cannot send. */
async function examineBrokers(database: Asker): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).brokerless)
  return rows.map(({ id, host, pid, error, for_ms: forMs }) =>
    wrong(
      'broker',
      `The broker of relay ${id} (process ${pid} on ${host}) is out of reach for ${ms(forMs)}: ${error}`,
      'Nothing is lost: the outbox fills, and what waits is sent when the broker is back. See how the broker is, and its URL.',
    ),
  )
}

/** Longer than any repair takes. */
const forgottenMs = 90 * 24 * 3_600_000

/** Dead letters that nobody looks at. They are not deleted unless somebody says so: each is a message that was not handled. */
async function examineDead(database: Asker): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).forgotten, { olderThanMs: forgottenMs })
  return rows.map(({ consumer, count, oldest_ms: oldestMs }) => {
    const [whose, flag] =
      consumer === '' ? ['the outbox', '--outbox'] : [`"${consumer}"`, `--consumer ${consumer}`]
    return note(
      'retention',
      `${count} dead letters of ${whose} are older than 90 days, the oldest ${ms(oldestMs)}: they are kept until somebody deletes them.`,
      `See them: twinbox dead list ${flag} --older-than 90d. Redrive or skip them; or count what would go: twinbox prune dead ${flag} --older-than 90d --dry-run. keepDeadMs of claimers and relays deletes them by itself.`,
    )
  })
}

const bloatRows = 100_000
const bloatBytes = 64 * 1024 * 1024

/** Tables and indexes that have grown out of proportion. */
export async function examineStorage(database: Asker): Promise<readonly Finding[]> {
  const sql = doctorSql(database.schema)
  const tables = await database.query(sql.tables)
  const indexes = await database.query(sql.indexes)
  const { schema } = database
  const findings = [
    ...tables.flatMap(({ name, dead, live, unlogged, unvacuumed }): Finding[] => [
      ...(unlogged
        ? [
            wrong(
              'storage',
              `The table ${name} is unlogged: a crash empties it.`,
              `Run: alter table ${schema}.${name} set logged`,
            ),
          ]
        : []),
      ...(unvacuumed
        ? [
            wrong(
              'storage',
              `Autovacuum is switched off for ${name}.`,
              `Run: alter table ${schema}.${name} reset (autovacuum_enabled)`,
            ),
          ]
        : []),
      ...(dead > bloatRows && dead > 10 * live
        ? [
            note(
              'storage',
              `The table ${name} has ${dead} dead rows and ${live} living ones.`,
              'If nobody holds them (see vacuum), autovacuum will come; if it does not: vacuum (verbose) it.',
            ),
          ]
        : []),
    ]),
    ...indexes.flatMap(({ name, valid, bytes, table_bytes: tableBytes }): Finding[] => [
      ...(valid
        ? []
        : [
            wrong(
              'storage',
              `The index ${name} is not valid: its making was broken off.`,
              `Run: reindex index concurrently ${schema}.${name}`,
            ),
          ]),
      ...(bytes > bloatBytes && bytes > 2 * tableBytes
        ? [
            note(
              'storage',
              `The index ${name} has ${Math.round(bytes / 1e6)} MB, its table ${Math.round(tableBytes / 1e6)} MB.`,
              `Run: reindex index concurrently ${schema}.${name}`,
            ),
          ]
        : []),
    ]),
  ]
  return orFine(findings, 'storage', 'Tables and indexes are in proportion.')
}
