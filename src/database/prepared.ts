import type pg from 'pg'
import { backendPid } from './sql/server.ts'
import { rowTypes } from './types.ts'

const seen = new WeakSet<pg.ClientBase>()
const sessions = new WeakMap<pg.ClientBase, boolean>()

/**
 * Whether what is prepared on this client is there the next time. A pooler would give the next transaction another session
 * of the server, and the error about the missing statement would abort the caller's transaction: so it is not tried, but
 * asked whether the process that the client has connected to is the one that answers. Asked once per client, and not for
 * its first statement: a client that is used once gains nothing by preparing.
 */
export function keepsStatements(client: pg.ClientBase): boolean | Promise<boolean> {
  const known = sessions.get(client)
  if (known !== undefined) return known
  if (seen.has(client)) return ask(client)
  seen.add(client)
  return false
}

/** The server did not know what was prepared on it: nothing is prepared there any more. */
export const keepsNone = (client: pg.ClientBase): unknown => sessions.set(client, false)

async function ask(client: pg.ClientBase): Promise<boolean> {
  const query = { text: backendPid, types: rowTypes }
  const [found] = (await client.query<{ pid: number }>(query)).rows
  const { processID } = client as unknown as { readonly processID?: number }
  const keeps = found!.pid === processID
  sessions.set(client, keeps)
  return keeps
}
