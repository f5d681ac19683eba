import type pg from 'pg'
import { bounded } from './client.ts'
import { ofDatabase } from './evidence.ts'
import * as sql from './sql/server.ts'
import { isConflict, sqlstate } from './sqlstate.ts'

/** How often a statement is run again that met another one. Each time, one of those that meet gets through. */
const conflictsMax = 10

/**
 * Runs a statement of ours that is a transaction by itself. A conflict with another one, which a session that does not know our
 * settings may report instead of waiting, has changed nothing: it is run again.
 *
 * @param settings of a session that others use as well, where what somebody has set would decide what the statement means, a
 *   `search_path` before all: then its transaction begins with our settings, and leaves none behind. Null on a session of ours
 */
export async function runAlone<Row>(
  client: pg.ClientBase,
  settings: Readonly<Record<string, string>> | null,
  run: () => Promise<Row[]>,
): Promise<Row[]> {
  for (let left = conflictsMax; ; left--) {
    try {
      return await (settings === null ? run() : inside(client, sql.beginWith(settings), run))
    } catch (error) {
      if (left === 0 || !isConflict(error)) throw error
    }
  }
}

/** Runs statements of ours, of which none needs to be known to have been committed, in a transaction that begins as `begin` says. */
export async function inside<Result>(
  client: pg.ClientBase,
  begin: string,
  run: () => Promise<Result>,
): Promise<Result> {
  try {
    await ofDatabase(client.query(bounded(begin)))
    const result = await run()
    await ofDatabase(client.query(bounded(sql.commit)))
    return result
  } catch (error) {
    // After any other error nobody knows whether it still answers: whoever looks after the client throws it away.
    if (sqlstate(error) !== null) await client.query(bounded(sql.rollback)).catch(() => {})
    throw error
  }
}
