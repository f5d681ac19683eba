import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { bounded } from './client.ts'
import * as sql from './sql/server.ts'

/** How pools of ours are set up, and how they end. */

/** What is at the other end of our connections. */
export interface Link {
  /** False with a pooler in between, which hands out sessions of the server that it has opened itself. */
  readonly direct: boolean
  /** Whether a connection is one session of the server's for as long as it lives: what is set, locked and listened to stays. */
  readonly sessions: boolean
  /** Whether settings can be given at start-up. If not, and there are sessions, they are made after connecting. */
  readonly atStart: boolean
  /** Whether the server can look for its clients in the middle of a statement. */
  readonly checksConnection: boolean
  readonly facts: Facts
}

/** What of the server and of its user our own settings depend on. */
export interface Facts {
  readonly version: number
}

/** Without those that `pg` gives at start-up: of our own statements they would be in the way. */
export const withoutTimeouts: pg.ClientConfig = {
  statement_timeout: false,
  lock_timeout: 0,
  idle_in_transaction_session_timeout: 0,
}

/** `pg` waits for what it gives, which its types do not say. */
export type OnConnect = (client: pg.ClientBase) => unknown

/** What makes each connection of a pool have our settings before any statement of ours runs on it. */
export function setUp(
  link: Link,
  config: pg.PoolConfig,
  settings: Readonly<Record<string, string>>,
): Omit<pg.PoolConfig, 'onConnect'> & { onConnect?: OnConnect } {
  const theirs: OnConnect | undefined = config.onConnect
  const onConnect: OnConnect = async (client) => {
    await theirs?.(client)
    await client.query(bounded(sql.setting(settings)))
  }
  if (!link.atStart) return { onConnect }
  return {
    ...Object.fromEntries(Object.keys(withoutTimeouts).map((name) => [name, settings[name]])),
    options: startup(config, settings),
    // What they set for statements of theirs is not for ours.
    ...(theirs === undefined ? {} : { onConnect }),
  }
}

/** Settings as start-up options, after those of the user. */
export function startup(
  { options: theirs }: pg.PoolConfig,
  settings: Readonly<Record<string, string>>,
): string {
  const ours = Object.entries(settings)
    .filter(([name]) => !(name in withoutTimeouts))
    .map(([name, value]) => `-c ${name}=${value.replaceAll(/[\\\s]/g, '\\$&')}`)
  return [...(theirs ? [theirs] : []), ...ours].join(' ')
}

/** Theirs, so that the connection is found where it is looked for, and a tag that is this instance's alone. */
export function applicationName(theirs: string | undefined): string {
  const tag = `twinbox ${randomBytes(4).toString('hex')}`
  // The server keeps 63 bytes, and replaces what is not ASCII. Behind the tag there may be a number, see `Connections`.
  const prefix = (theirs ?? '').replaceAll(/[^ -~]/g, '?').slice(0, 57 - tag.length)
  return prefix === '' ? tag : `${prefix} ${tag}`
}

/** Breaks its connection, whatever it does: one that swallows bytes would wait for its own end for ever. */
export function destroy(client: pg.ClientBase): void {
  const { connection } = client as unknown as { connection: { stream: { destroy(): void } } }
  connection.stream.destroy()
}

/** Breaks all of its connections, whatever they do. */
export function tearDown(pool: pg.Pool): void {
  const { _clients: clients } = pool as unknown as { _clients: pg.PoolClient[] }
  clients.forEach(destroy)
}

export const endWithinMs = 5000

/** Ends it within 5 s. */
export async function endPool(pool: pg.Pool): Promise<void> {
  // end() waits for ever for a client that somebody forgot, or whose server is gone.
  const deadline = setTimeout(() => tearDown(pool), endWithinMs)
  await pool.end().finally(() => clearTimeout(deadline))
}
