import type pg from 'pg'
import { OptionError } from '../base/errors.ts'
import { readBoolean, refuseUnknown } from '../base/options.ts'
import type { Database, DatabaseInput } from '../database/database.ts'
import { explainSql } from '../database/sql/explain.ts'
import { statusSql } from '../database/sql/status.ts'
import { consumerColumn, isMessageId } from '../operate/filter.ts'
import { withTables } from '../operate/tables.ts'
import { nothing, type Evidence, type Explanation } from './explanation.ts'
import { Facts } from './facts.ts'
import { findPlaces, type Places, type Wanted } from './places.ts'
import type { Snapshot } from './snapshot.ts'
import { tell } from './sentence.ts'
import { judge } from './why.ts'

export interface ExplainOptions {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Only at this consumer; null for the outbox. @default everywhere */
  readonly consumer?: string | null | undefined
  /**
   * Look at each message that waits, rather than at the first of each lane and at those around the time of this one: with millions
   * waiting that takes seconds. @default false
   */
  readonly all?: boolean | undefined
}

/**
 * Says in one sentence, with the evidence for it, why a message is where it is: what it waits behind, who holds it and whether they live,
 * when it goes on; or when and by whom it was handled. One sentence for each place, if several consumers have it.
 *
 * It reads one snapshot, looks up what has an index, and changes and locks nothing. The role `twinbox_reader` is enough. What waits has no index by its id:
 * unless `all` is set, a bounded number of messages is looked at, and `complete` says whether that was all. Nothing is kept of
 * what was sent and received nowhere here. A statement that takes longer than 20 s ends with
 * the database's error.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function explainMessage(
  input: DatabaseInput,
  id: string,
  options: ExplainOptions = {},
): Promise<Explanation> {
  refuseUnknown('explainMessage', options, ['schema', 'consumer', 'all'])
  if (!isMessageId(id)) throw new OptionError('id', 'id must be the id of a message, a UUID.')
  const consumer = consumerColumn(options.consumer)
  const all = readBoolean('all', options.all, false)
  return inSnapshot(input, options.schema, async (snapshot) => {
    const { told } = await explain(snapshot, { id: id.toLowerCase(), consumer, all })
    return told
  })
}

/** Runs `work` on one picture of the tables, in which what is read is looked up and ends after 20 s. */
export const inSnapshot = <Result>(
  input: DatabaseInput,
  schema: string | undefined,
  work: (snapshot: Snapshot) => Promise<Result>,
): Promise<Result> =>
  withTables(input, schema, (database) =>
    database.transaction(async (client) => {
      const { begin, limit } = statusSql(database.schema)
      await client.query(begin)
      await client.query(limit)
      await client.query(explainSql(database.schema).plans)
      return work(snapshotOf(database, client))
    }),
  )

const snapshotOf = (database: Database, client: pg.ClientBase): Snapshot => ({
  schema: database.schema,
  rows: (statement, ...given) => database.run(client, statement, ...given),
})

/** What is told of a message, and what that was judged by: of its places, the first are those where it was found, in that order. */
export async function explain(
  snapshot: Snapshot,
  wanted: Wanted,
): Promise<{ readonly told: Explanation; readonly found: Places; readonly facts: Facts }> {
  const { id, consumer } = wanted
  const sql = explainSql(snapshot.schema)
  const [{ at } = { at: new Date() }] = await snapshot.rows(sql.now)
  const facts = new Facts(snapshot, id, at)
  const found = await findPlaces(snapshot, wanted)
  const evidence: Evidence[] = []
  for (const row of found.rows) evidence.push(await judge(row, facts))
  evidence.push(...(await facts.left(found, consumer)))
  if (evidence.length === 0) evidence.push({ ...nothing, transactions: await snapshot.rows(sql.writers) })
  const told = {
    ...{ id, at, known: evidence[0]!.why !== 'unknown', complete: found.complete },
    places: evidence.map((each) => ({ sentence: tell(each, at, found.complete), ...each })),
  }
  return { told, found, facts }
}
