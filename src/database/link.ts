import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { OptionError, TwinboxError } from '../base/errors.ts'
import type { Hosts } from './hosts.ts'
import * as sql from './sql/server.ts'
import { isUnknownStatement, sqlstate } from './sqlstate.ts'
import { withoutTimeouts, type Facts, type Link } from './pool.ts'
import { rowTypes } from './types.ts'

interface Marked {
  readonly mark: string | null
  readonly pid: number
}

/** How long the server or a pooler may take for an answer that costs nothing. */
const answerMs = 5000
/** How often a pooler is asked whether it shares its sessions. One that does and is busy may look otherwise once or twice. */
const rounds = 10

/**
 * Finds out what is at the other end by what it does, not by what it says: a start-up parameter that poolers do not know
 * arrives or does not, and of two connections, one may be given the session that the other one had.
 *
 * @param prepares whether the user insists on prepared statements
 * @throws OptionError for options of the user's that the pooler refuses, and for prepared statements that it does not keep
 * @throws TwinboxError `POOLER_FULL` if it gives no session
 */
export async function findLink(hosts: Hosts, prepares: boolean): Promise<Link> {
  const mark = randomBytes(8).toString('hex')
  const { options: theirs = '' } = hosts.config
  const marked = await hosts
    .connect({ ...withoutTimeouts, options: `${theirs} -c ${sql.markName}=${mark}` })
    // "unsupported startup parameter", says PgBouncer, but its texts are not ours to know.
    .catch((error: unknown) => (sqlstate(error) === '08P01' ? null : Promise.reject(error)))
  if (marked !== null) {
    try {
      const { mark: arrived, pid, ...facts } = await ask<Facts & Marked>(marked, sql.linkFacts)
      const { processID } = marked as unknown as { processID: number }
      const atStart = arrived === mark
      if (atStart && processID === pid) {
        const checksConnection = await ask(marked, sql.tryConnectionCheck).then(
          () => true,
          () => false,
        )
        return { direct: true, sessions: true, atStart, checksConnection, facts }
      }
      return { ...(await findPooler(hosts, prepares)), atStart }
    } finally {
      void marked.end().catch(() => {})
    }
  }
  return findPooler(hosts, prepares)
}

async function findPooler(hosts: Hosts, prepares: boolean): Promise<Link> {
  await refuseWishes(hosts)
  const bare = { ...withoutTimeouts, options: '' }
  const open: pg.Client[] = []
  try {
    const one = await hosts.connect(bare)
    open.push(one)
    const facts = await ask<Facts>(one, sql.linkFacts)
    const other = await hosts.connect(bare)
    open.push(other)
    const sessions = !(await share(one, other))
    if (prepares && !sessions) await refuseToPrepare(one, other)
    return {
      direct: false,
      sessions,
      atStart: false,
      checksConnection: false,
      facts,
    }
  } catch (error) {
    throw explained(error)
  } finally {
    for (const client of open) void client.end().catch(() => {})
  }
}

async function ask<Row>(client: pg.Client, text: string, name?: string): Promise<Row> {
  const query = { text, name, types: rowTypes, query_timeout: answerMs } as pg.QueryConfig
  return (await client.query(query)).rows[0] as Row
}

/**
 * Whether a pooler gives a session to others between two transactions of one: then one of two connections is seen on two
 * sessions, or both on the same.
 *
 * Each round ends with `one`, beside nothing of ours. Poolers give the session first that came back last. If `other` gave
 * back its own after `one` in every round, each would get its own again, and one transaction of somebody else's at the
 * start was enough to make them part.
 */
async function share(one: pg.Client, other: pg.Client): Promise<boolean> {
  // If it waits for a session that the other one has, they share it.
  const pidOf = (client: pg.Client): Promise<number | null> =>
    ask<{ pid: number }>(client, sql.backendPid).then(
      ({ pid }) => pid,
      () => null,
    )
  const ofOne = await pidOf(one)
  let ofOther: number | null = null
  for (let round = 0; round < rounds; round++) {
    await ask(other, sql.begin)
    const others = await pidOf(other)
    ofOther ??= others
    if (others === ofOne || others !== ofOther || (await pidOf(one)) !== ofOne) return true
    await ask(other, sql.commit)
    if ((await pidOf(one)) !== ofOne) return true
  }
  return false
}

/** Each statement would fail as soon as its connection is given another session, now and then and for ever. */
async function refuseToPrepare(one: pg.Client, other: pg.Client): Promise<void> {
  // In a transaction it would keep its session, and so its statement.
  await ask(other, sql.rollback)
  try {
    for (let round = 0; round < rounds; round++) {
      for (const client of [one, other]) await ask(client, sql.backendPid, 'twinbox_probe')
    }
  } catch (error) {
    if (!isUnknownStatement(sqlstate(error))) throw error
    throw new OptionError(
      'preparedStatements',
      'preparedStatements is true, but the pooler in between gives its sessions to others and does not keep what was prepared on them. Leave the option out, connect directly, or use PgBouncer 1.21 or later with max_prepared_statements above 0.',
      { cause: error },
    )
  }
}

/** What handlers' connections would fail with, each, is better said at once. */
async function refuseWishes(hosts: Hosts): Promise<void> {
  const names = ['options', ...Object.keys(withoutTimeouts)] as (keyof pg.PoolConfig)[]
  const wishes = names.filter((name) => Boolean(hosts.config[name]))
  if (wishes.length === 0) return
  const client = await hosts.connect({}).catch((error: unknown) => {
    if (sqlstate(error) !== '08P01') throw error
    throw new OptionError(
      'database',
      `database sets ${wishes.join(' and ')}, which the pooler in between refuses as start-up parameters. Set them with "alter role … set …" instead, or, for PgBouncer, name them in ignore_startup_parameters.`,
      { cause: error },
    )
  })
  await client.end().catch(() => {})
}

/** A pooler reports whatever it does not like as a violation of the protocol. The server itself never answers so. */
function explained(error: unknown): unknown {
  const late = error instanceof Error && /^Query read timeout/.test(error.message)
  if (sqlstate(error) !== '08P01' && !late) return error
  const why = late ? 'it gave none within 5 s' : (error as Error).message
  return new TwinboxError(
    'POOLER_FULL',
    `The pooler in between has no session of the server to give (${why}). The workers of a process keep up to ten connections for all of them and one per running handler; if its pooler works in session mode, each is a session: raise the pooler's pool size above what all workers together need, or connect workers directly.`,
    { cause: error },
  )
}
