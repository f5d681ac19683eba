import type { Database } from '../database/database.ts'
import { doctorSql } from '../database/sql/doctor.ts'
import { topicMatches } from '../message/message.ts'
import { ms } from '../observe/logging.ts'
import { readPaused, tellPaused } from '../status/paused.ts'
import { note, orFine, wrong, type Finding } from './finding.ts'

/** Work that nobody does. */
export async function examineWork(database: Database): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).consumers)
  const findings = rows.flatMap(
    ({ consumer, waits, workers, stuck, below, subscribed, lately }): Finding[] => {
      const [box, worker, command] =
        consumer === ''
          ? ['the outbox', 'relay', 'twinbox relay']
          : [`the inbox of "${consumer}"`, 'claimer', `twinbox claim --consumer ${consumer}`]
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
    ...(await examineTopics(database)),
    ...(await examineCircuits(database)),
    ...(await examineHandlers(database)),
  )
  return orFine(findings, 'work', 'Whatever waits has somebody to work on it.')
}

/** So many are told of one by one. */
const topicsMax = 20

/** Messages that wait since none of the living claimers has a handler for their topic. */
async function examineTopics(database: Database): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).unhandled)
  const nobodys = rows.filter(
    ({ topic, patterns }) => !patterns.some((pattern) => topicMatches(pattern, topic)),
  )
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
async function examineCircuits(database: Database): Promise<readonly Finding[]> {
  return (await readPaused(database)).map((topic) =>
    wrong(
      'circuits',
      `${topic.consumer} ${tellPaused(topic)} (UTC), ${topic.probes} tries.`,
      `Its handlers fail with: ${topic.error === '' ? topic.reason : topic.error}. Nothing is counted; it goes on by itself at the first success.`,
    ),
  )
}

/** Handlers that do not end. */
async function examineHandlers(database: Database): Promise<readonly Finding[]> {
  const rows = await database.query(doctorSql(database.schema).stuck)
  return rows.map(({ id, consumer, host, pid, topic, for_ms: forMs }) =>
    wrong(
      'handlers',
      `A handler of ${topic} has not ended for ${ms(forMs)}, in worker ${id} of ${consumer} (process ${pid} on ${host}).`,
      'Set handleTimeoutMs, longer than the handler may take; until then, start that process again.',
    ),
  )
}

const bloatRows = 100_000
const bloatBytes = 64 * 1024 * 1024

/** Tables and indexes that have grown out of proportion. */
export async function examineStorage(database: Database): Promise<readonly Finding[]> {
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
