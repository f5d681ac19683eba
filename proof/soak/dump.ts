import type pg from 'pg'
import type { Database } from '../../src/database/database.ts'
import { dumpSql, type DumpedSequence, type DumpedTable } from '../sql/dump.ts'
import { now } from './history.ts'

/**
 * Copies the rows of a schema to another server, whose tables of the same schema are there already, as they were at one moment,
 * while everybody works on them. Returns the monotonic time just before that moment: what was known to be committed by then is
 * among it.
 */
export async function copyRows(from: Database, to: Database): Promise<number> {
  const source = await from.pool.connect()
  const target = await to.pool.connect()
  try {
    return await copy(dumpSql(from.schema), source, target)
  } finally {
    // Their settings are their own.
    source.release(true)
    target.release(true)
  }
}

async function copy(
  sql: ReturnType<typeof dumpSql>,
  source: pg.PoolClient,
  target: pg.PoolClient,
): Promise<number> {
  const before = now()
  await source.query(sql.begin)
  const { rows: tables } = await source.query<DumpedTable>(sql.tables)
  await target.query(sql.clear(tables))
  for (const table of tables) {
    await target.query(sql.shape(table))
    await source.query(sql.read(table))
    for (;;) {
      const { rows } = await source.query<{ row: string }>(sql.fetch)
      if (rows.length === 0) break
      await target.query(sql.write(table), [rows.map(({ row }) => row)])
    }
    await source.query(sql.close)
  }
  const { rows: sequences } = await source.query<DumpedSequence>(sql.sequences)
  for (const sequence of sequences) await target.query(sql.set(sequence))
  return before
}
