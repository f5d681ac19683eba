import { planned } from '../src/database/sql/statement.ts'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Server } from 'node:net'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { Database } from '../src/database/database.ts'
import { withTransaction } from '../src/database/transaction.ts'
import { checkServer } from '../src/database/server.ts'
import { isConnectionLost } from '../src/database/sqlstate.ts'
import { OptionError } from '../src/base/errors.ts'
import { migrate } from '../src/index.ts'
import { startProxy, type Proxy } from '../proof/stage/proxy.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** The database as several hosts: which of them is used, and what is thrown away. */

let database: TestDatabase
let readOnly: string
const open: { close(): Promise<void> }[] = []
const closing = <Thing extends { close(): Promise<void> }>(thing: Thing): Thing => {
  open.push(thing)
  return thing
}

beforeAll(async () => {
  database = await createTestDatabase()
  // To a client, what a standby is: a server on which every transaction is read-only.
  readOnly = `reader_${database.url.slice(-8)}`
  await database.query(`create role ${readOnly} superuser login password 'reader';
    alter role ${readOnly} set default_transaction_read_only = on`)
})
afterEach(async () => {
  await Promise.all(open.splice(0).map((thing) => thing.close()))
})
afterAll(async () => {
  await database.query(`drop role ${readOnly}`)
  await database.drop()
})

const target = (): { host: string; port: number } => {
  const { hostname: host, port } = new URL(database.url)
  return { host, port: Number(port || 5432) }
}
const proxy = async (): Promise<Proxy> => closing(await startProxy(target()))

/** The test's database at these addresses. */
function at(hosts: readonly (Proxy | string)[], options = ''): string {
  const { username, password, pathname } = new URL(database.url)
  const list = hosts.map((host) => (typeof host === 'string' ? host : `127.0.0.1:${host.port}`))
  return `postgres://${username}:${password}@${list.join(',')}${pathname}${options}`
}

/** A port that nobody listens on. */
async function deadPort(): Promise<string> {
  const server: Server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return `127.0.0.1:${port}`
}

describe('a list of hosts', () => {
  const refusal = (url: string): Error => {
    try {
      void new Database(url)
    } catch (error) {
      return error as Error
    }
    throw new Error('It was taken.')
  }

  test.each([
    ['an empty host', 'postgres://me:secret@h1,,h2/db'],
    ['no host after the comma', 'postgres://me:secret@h1:5432,/db'],
    ['only a port', 'postgres://me:secret@h1,:5433/db'],
    ['a port that is no number', 'postgres://me:secret@h1:x,h2/db'],
    ['a port out of range', 'postgres://me:secret@h1:5432,h2:65536/db'],
    ['port 0', 'postgres://me:secret@h1:0,h2/db'],
    ['a password with a slash', 'postgres://me:secret,a/b@h1,h2/db'],
    ['hosts in the query', 'postgres://me:secret@/db?host=h1,h2'],
    ['a wish for a standby', 'postgres://me:secret@h1,h2/db?target_session_attrs=standby'],
    ['a wish for any', 'postgres://me:secret@h1/db?target_session_attrs=any'],
  ])('%s is refused, and the password not shown', (_, url) => {
    const error = refusal(url)
    expect(error).toBeInstanceOf(OptionError)
    expect((error as OptionError).option).toBe('database')
    expect(`${error.stack} ${JSON.stringify(error)}`).not.toMatch(/secret|h1/)
  })

  test.each([
    ['postgres://me:a,b@h1:5432,h2/db?target_session_attrs=read-write', 'a,b'],
    ['postgresql://me:p%40@[::1]:5432,[::1]:5433/db?target_session_attrs=primary&ssl=0', 'p@'],
    ['postgres://me:a,b@h1/db', 'a,b'],
  ])('%s is taken', async (url, password) => {
    const { pool } = closing(new Database(url))
    expect((pool.options as pg.PoolConfig).password).toBe(password)
    expect(JSON.stringify(pool.options)).not.toContain(password)
  })
})

test.each([
  ['beside a URL without one, the one that was given', 'postgres://me@h1/db', 'beside', 'beside'],
  ['beside a list of hosts too', 'postgres://me@h1,h2/db', 'beside', 'beside'],
  ["the URL's own", 'postgres://me:url@h1/db', 'beside', 'url'],
  ['none', 'postgres://me@h1/db', undefined, null],
])('the password is %s', (_, connectionString, password, used) => {
  const { pool } = closing(new Database({ connectionString, password }))
  expect((pool.options as pg.PoolConfig).password ?? null).toBe(used)
})

test('a host that refuses is passed over, and the one that worked is asked first from then on', async () => {
  const alive = await proxy()
  const many = closing(new Database(at([await deadPort(), await deadPort(), alive])))
  await checkServer(many)
  expect((await many.pool.query('select 1 as one')).rows).toEqual([{ one: 1 }])
  const session = await many.openSession()
  expect(session.port).toBe(alive.port)
  await session.end()
})

test('a host that does not answer is passed over', async () => {
  const [silent, alive] = [await proxy(), await proxy()]
  silent.blackHole()
  const config = { connectionString: at([silent, alive]), connectionTimeoutMillis: 300 }
  const many = closing(new Database(config))
  expect((await many.pool.query('select 1 as one')).rows).toEqual([{ one: 1 }])
})

test('when the host in use dies, everybody moves on together', async () => {
  const [first, second] = [await proxy(), await proxy()]
  const many = closing(new Database(at([first, second])))
  await Promise.all(Array.from({ length: 5 }, () => many.pool.query('select pg_sleep(0.01)')))
  expect(second.connections().ever).toBe(0)
  await first.refuse()
  await Promise.allSettled(Array.from({ length: 5 }, () => many.pool.query('select pg_sleep(0.01)')))
  await Promise.all(Array.from({ length: 5 }, () => many.pool.query('select pg_sleep(0.01)')))
  const { ever } = first.connections()
  await first.heal()
  await many.pool.query('select 1')
  // The first is back, and that is no reason to leave the second.
  expect(first.connections().ever).toBe(ever)
})

test('a server that answers with a refusal of its own is not left for another', async () => {
  const [first, second] = [await proxy(), await proxy()]
  const wrong = Object.assign(new URL(at([first])), { pathname: '/no_such_database' }).toString()
  const both = wrong.replace(`:${first.port}`, `:${first.port},127.0.0.1:${second.port}`)
  const many = closing(new Database(both))
  await expect(many.pool.query('select 1')).rejects.toMatchObject({ code: '3D000' })
  expect(second.connections().ever).toBe(0)
})

describe('a server that takes no writes', () => {
  /** The same server, read-only for whoever comes through the first proxy, for as long as the role is so. */
  const asReader = (url: string): string => url.replace(/\/\/[^@]*@/, `//${readOnly}:reader@`)

  test('is left, and when there is no other one, the error says which it was and counts as an outage', async () => {
    const [first, second] = [await proxy(), await proxy()]
    const many = closing(new Database(asReader(at([first, second]))))
    const error = await many.pool.query('select 1').catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: '25006', message: expect.stringContaining('read-only') })
    expect(String(error)).not.toContain('reader')
    expect(isConnectionLost(error)).toBe(true)
    expect([first.connections().ever, second.connections().ever]).toEqual([1, 1])
  })

  test('is left when only a statement finds out', async () => {
    const one = closing(new Database(database.url))
    const demote = 'set default_transaction_read_only = on'
    const insert = planned({}, 'create table nobody ()')

    // One for statements of ours.
    await one.query(planned({}, demote))
    const pid = planned({}, 'select pg_backend_pid() as pid').gives<{ readonly pid: number }>()
    const [{ pid: demoted }] = (await one.query(pid)) as [{ pid: number }]
    await expect(one.query(insert)).rejects.toMatchObject({ code: '25006' })
    const [fresh] = await one.query(pid)
    expect(fresh!.pid).not.toBe(demoted)

    // A transaction's, even if the user wraps the error.
    await one.pool.query(demote)
    const before = one.pool.totalCount
    const wrapped = withTransaction(one, async (client) => {
      await client.query(insert.text).catch((cause: unknown) => {
        throw new Error('The order could not be written.', { cause })
      })
    })
    await expect(wrapped).rejects.toThrow('The order could not be written.')
    expect(one.pool.totalCount).toBe(before - 1)
    await migrate(one)
  })
})

describe('the name of our connections', () => {
  const name = planned({}, `select current_setting('application_name') as name`)

  test.each([
    ['', /^twinbox [0-9a-f]{8}$/],
    ['?application_name=shop', /^shop twinbox [0-9a-f]{8}$/],
    [`?application_name=${'x'.repeat(80)}`, /^x{41} twinbox [0-9a-f]{8}$/],
    ['?application_name=caf%C3%A9', /^caf\? twinbox [0-9a-f]{8}$/],
  ])('%s', async (query, pattern) => {
    const one = closing(new Database(database.url + query))
    expect(one.application).toMatch(pattern)
    const session = await one.openSession()
    const pools = [one.pool.query(name.text), session.query(name.text)].map(
      async (result) => (await result).rows,
    )
    const rows = await Promise.all([one.keep(name), one.query(name), ...pools])
    await session.end()
    expect(rows.flat()).toEqual(Array.from({ length: 4 }, () => ({ name: one.application })))
  })

  test('is that of all but the handlers, if the pool is the user’s', async () => {
    const theirs = new pg.Pool({ connectionString: database.url, application_name: 'shop' })
    closing({ close: () => theirs.end() })
    const one = closing(new Database(theirs))
    expect(one.application).toMatch(/^shop twinbox /)
    expect((await one.pool.query(name.text)).rows).toEqual([{ name: 'shop' }])
    expect(await one.query(name)).toEqual([{ name: one.application }])
    expect(await one.keep(name)).toEqual([{ name: one.application }])
  })
})

test('handlers have the settings of the user, and statements of ours those that they depend on', async () => {
  const options = '-c search_path=shop,pg_catalog -c timezone=Asia/Kolkata -c statement_timeout=1234'
  const one = closing(
    new Database(`${database.url}?options=${encodeURIComponent(options)}&statement_timeout=777`),
  )
  const settings = [
    ...['search_path', 'timezone', 'datestyle', 'statement_timeout', 'synchronous_commit'],
    ...['tcp_keepalives_idle', 'client_connection_check_interval', 'idle_session_timeout'],
  ]
  const text = `select ${settings.map((name) => `current_setting('${name}')`).join(` || ' ' || `)} as all`
  await database.query(`alter database ${database.url.split('/').at(-1)} set datestyle = 'German'`)
  const check = process.platform === 'linux' ? '1s' : '0'
  const session = await one.openSession()
  expect(await one.query(planned({}, text))).toEqual([
    { all: `pg_catalog, pg_temp UTC ISO, MDY 0 on 10 ${check} 0` },
  ])
  const kept = [{ all: `pg_catalog, pg_temp UTC ISO, MDY 10s off 10 ${check} 0` }]
  expect(await one.keep(planned({}, text))).toEqual(kept)
  expect((await session.query(text)).rows).toEqual(kept)
  await session.end()
  expect((await one.pool.query(text)).rows).toEqual([
    { all: `shop,pg_catalog Asia/Kolkata German, DMY 777ms on 10 ${check} 0` },
  ])
  expect([one.sessions, one.preparedStatements]).toEqual([true, true])
})

test('a pool’s own preparation of its connections does not reach statements of ours', async () => {
  const theirs = new pg.Pool({
    connectionString: database.url,
    onConnect: (client) => client.query("set datestyle = 'SQL, DMY'; set role pg_monitor") as never,
  })
  closing({ close: () => theirs.end() })
  const one = closing(new Database(theirs))
  const text = `select current_setting('datestyle') as style, current_user::text as me`
  expect(await one.query(planned({}, text))).toEqual([{ style: 'ISO, DMY', me: 'pg_monitor' }])
})
