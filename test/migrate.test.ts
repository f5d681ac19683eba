import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { Kysely, Migrator, PostgresDialect, type MigrationProvider } from 'kysely'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import {
  applyRoles,
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  diagnose,
  migrate,
  migrationFiles,
  readStatus,
  twinboxMigrations,
  withTransaction,
  type Broker,
  type LockWait,
  type MigrationFile,
} from '../src/index.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { rangeOf } from '../src/database/compatibility.ts'
import { openDatabase } from '../src/database/database.ts'
import { statementsOf } from '../src/database/lockwait.ts'
import { applyFiles, checkSchemaVersion, providerOf } from '../src/database/migrate.ts'
import { migrationSql } from '../src/database/sql/migration.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { startEmbedded } from './support/servers/postgres.ts'
import { compiled } from './support/shared.ts'

await compiled('build')

const run = promisify(execFile)
const names = migrationFiles().map(({ name }) => name)
const newest = migrationFiles().at(-1)!.version

let database: TestDatabase
beforeEach(async () => {
  database = await createTestDatabase({ migrated: false })
})
afterEach(() => database.drop())

const applied = (schema = 'twinbox'): Promise<string[]> =>
  database
    .query<{ version: number; name: string }>(
      `select version, name from "${schema}".migration order by version`,
    )
    .then((rows) => rows.map(({ version, name }) => `${String(version).padStart(4, '0')}_${name}`))

/** Every relation, function and constraint of a schema, with its definition: to see whether anything changed. */
const structure = (schema = 'twinbox'): Promise<unknown[]> =>
  database.query(
    `select c.oid, c.relname, c.relkind, c.reloptions, c.relfilenode,
      array(select row(attname, atttypid, attnotnull)::text from pg_attribute where attrelid = c.oid order by attnum) as columns
    from pg_class as c where relnamespace = $1::regnamespace
    union all
    select oid, proname, 'f', proconfig, 0, array[prosrc] from pg_proc where pronamespace = $1::regnamespace
    order by 1`,
    [`"${schema}"`],
  )

/** The migrations of a later version, whose last one needs a lock on a table that publishers use. */
const later: MigrationFile = {
  version: newest + 1,
  name: `${String(newest + 1).padStart(4, '0')}_later`,
  sql: `alter table twinbox.outbox add column later text;
    insert into twinbox.migration (version, name, oldest_worker) values (${newest + 1}, 'later', ${newest + 1});`,
}
const laterFiles = (schema: string): MigrationFile[] => [...migrationFiles(schema), later]

const publishOne = (schema = 'twinbox'): Promise<unknown> =>
  database.transaction((client) =>
    createOutbox({ schema }).publish(client, { topic: 't', payload: 1, dedupeKey: 'd', key: 'k' }),
  )

describe('migrate', () => {
  test('it applies every file once, in order, and a second time nothing', async () => {
    expect(names.length).toBeGreaterThan(0)
    expect(await migrate(database.url)).toEqual(names)
    expect(await applied()).toEqual(names)
    const before = await structure()
    expect(await migrate(database.url)).toEqual([])
    expect(await structure()).toEqual(before)
    await publishOne()
  })

  test('it goes on from where the database stands', async () => {
    // As far as publishing needs, which locks lanes by their table, and under a dedupe key knows what is delayed.
    for (const { sql } of migrationFiles().slice(0, 4)) await database.query(sql)
    await publishOne()
    expect(await migrate(database.url)).toEqual(names.slice(4))
    expect(await database.query('select from twinbox.outbox')).toHaveLength(1)
  })

  test('a file that fails leaves the database as it was', async () => {
    // Takes a name that a later migration needs.
    await database.query(migrationFiles()[0]!.sql)
    await database.query('create table twinbox.dead_letter ()')
    const before = await structure()
    await expect(migrate(database.url)).rejects.toMatchObject({ code: '42P07' })
    expect(await structure()).toEqual(before)
    await database.query('drop table twinbox.dead_letter')
    expect(await migrate(database.url)).toEqual(names.slice(1))
  })

  test('eight of them at once take turns: one does the work', async () => {
    const pools = Array.from({ length: 8 }, () => openPool(database.url, 1))
    const done = await Promise.all(pools.map((pool) => migrate(pool)))
    await Promise.all(pools.map((pool) => pool.end()))
    expect(done.toSorted((a, b) => b.length - a.length)).toEqual([names, ...Array<string[]>(7).fill([])])
    expect(await applied()).toEqual(names)
  })

  test('two processes at once take turns as well', async () => {
    const index = pathToFileURL(resolve(import.meta.dirname, '../.build/src/index.js'))
    const program = `import { migrate } from '${index.href}'
      console.log(JSON.stringify(await migrate(process.argv[1])))`
    const start = async (): Promise<unknown> => {
      const { stdout } = await run(process.execPath, ['--input-type=module', '-e', program, database.url])
      return JSON.parse(stdout)
    }
    const done = (await Promise.all([start(), start()])) as string[][]
    expect(done.toSorted((a, b) => b.length - a.length)).toEqual([names, []])
    expect(await applied()).toEqual(names)
  })

  test('a database that is newer is refused, and stays as it is', async () => {
    await migrate(database.url)
    await database.query('insert into twinbox.migration values ($1, $2, $1)', [newest + 1, 'future'])
    const before = await structure()
    const ahead = {
      name: 'SchemaError',
      code: 'SCHEMA_AHEAD',
      message: expect.stringContaining(`${newest + 1}`) as string,
    }
    await expect(migrate(database.url)).rejects.toMatchObject(ahead)
    expect(await structure()).toEqual(before)
    expect((await applied()).length).toBe(names.length + 1)
  })

  test('it leaves your own pool open, and its connections clean', async () => {
    await migrate(database.pool)
    expect(await database.query('select pg_current_xact_id_if_assigned() as xid')).toEqual([{ xid: null }])
    expect(
      await database.query(
        `select from pg_locks as l join pg_database as d on d.oid = l.database
        where l.locktype = 'advisory' and d.datname = current_database()`,
      ),
    ).toEqual([])
  })

  test.each(['order', 'user', 'x'.repeat(51)])('the schema "%s" is a world of its own', async (schema) => {
    expect(await migrate(database.url, { schema })).toEqual(names)
    expect(await applied(schema)).toEqual(names)
    expect(await database.query("select from pg_namespace where nspname = 'twinbox'")).toEqual([])
    await publishOne(schema)
    // Whatever a function or a default names has to be found in there, with no other schema to fall back on.
    await database.query(
      `select "${schema}".publish('t', '1', key => 'k', dedupe_key => 'e', headers => '{"a":"b"}')`,
    )
    expect(await migrate(database.url)).toEqual(names)
    expect(await database.query('select from twinbox.outbox')).toEqual([])
    expect(await database.query(`select from "${schema}".outbox`)).toHaveLength(2)
  })

  test('everything stands in the schema, nothing beside it', async () => {
    const elsewhere = (): Promise<unknown[]> =>
      database.query(`select oid from pg_class where oid >= 16384 and relnamespace not in (
        select oid from pg_namespace where nspname in ('twinbox', 'pg_toast'))`)
    await migrate(database.url)
    expect(await elsewhere()).toEqual([])
    expect(await database.query("select extname from pg_extension where extname <> 'plpgsql'")).toEqual([])
    await database.query('drop schema twinbox cascade')
    expect(await migrate(database.url)).toEqual(names)
  })

  test('the owner of a database needs to be no superuser', async () => {
    const role = `twinbox_test_${randomBytes(6).toString('hex')}`
    const own = `${role}_db`
    await database.query(`create role ${role} login password 'secret' nosuperuser nocreaterole nocreatedb`)
    await database.query(`create database ${own} owner ${role}`)
    const url = Object.assign(new URL(database.url), {
      username: role,
      password: 'secret',
      pathname: `/${own}`,
    })
    try {
      expect(await migrate(url.toString())).toEqual(names)
      const pool = openPool(url.toString(), 1)
      const { rows } = await pool.query<{ rolsuper: boolean }>(
        'select rolsuper from pg_roles where rolname = current_user',
      )
      await pool.end()
      expect(rows).toEqual([{ rolsuper: false }])
    } finally {
      await database.query(`drop database ${own} with (force)`)
      await database.query(`drop role ${role}`)
    }
  })
})

describe('migrate on tables that are in use', () => {
  beforeEach(() => migrate(database.url))
  /** Somebody who has published and goes on, in a transaction of an application by that name. */
  const openTransaction = async (): Promise<pg.Client> => {
    const client = new pg.Client({ connectionString: database.url, application_name: 'the one in the way' })
    await client.connect()
    await client.query('begin')
    await createOutbox().publish(client, { topic: 't', payload: 1 })
    return client
  }
  const waits: LockWait[] = []
  let told = (): void => {}
  const onWait = (wait: LockWait): void => {
    waits.push(wait)
    told()
  }
  const waited = async (times: number): Promise<void> => {
    while (waits.length < times) await new Promise<void>((wake) => (told = wake))
  }
  beforeEach(() => void waits.splice(0))

  test('lets publishers go ahead, says who is in the way, and is done once that has ended', async () => {
    const open = await openTransaction()
    const pid = (await open.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]!.pid
    let over = false
    const migrating = applyFiles(laterFiles, database.url, { onWait }).finally(() => (over = true))
    const publisher = new pg.Pool({ connectionString: database.url, max: 1, statement_timeout: 5000 })
    const publishing = (async () => {
      let count = 0
      while (!over) {
        await withTransaction(publisher, (client) =>
          createOutbox().publish(client, { topic: 't', payload: count }),
        )
        count++
      }
      return count
    })()
    await waited(3)
    expect(waits[2]).toMatchObject({ tries: 3, blockers: [{ pid, application: 'the one in the way' }] })
    expect(waits[2]!.blockers[0]).toMatchObject({ state: 'idle in transaction' })
    expect(waits[2]!.blockers[0]!.transactionMs).toBeGreaterThan(waits[0]!.waitedMs)
    await open.query('commit')
    await open.end()
    expect(await migrating).toEqual([later.name])
    // None of them had to wait for the transaction that was open.
    expect(await publishing).toBeGreaterThan(3)
    await publisher.end()
  })

  test('gives up after waitMs, names who was in the way, and has changed nothing', async () => {
    const open = await openTransaction()
    const before = await structure()
    await expect(applyFiles(laterFiles, database.url, { waitMs: 0 })).rejects.toMatchObject({
      name: 'SchemaError',
      code: 'SCHEMA_BUSY',
      message: expect.stringMatching(
        /pid \d+ \(application "the one in the way".*idle in transaction/,
      ) as string,
    })
    expect(await structure()).toEqual(before)
    await open.end()
    expect(await applyFiles(laterFiles, database.url, { waitMs: 0 })).toEqual([later.name])
  })

  test('waits for another one in the same way, and ends when it is told to', async () => {
    const other = await database.pool.connect()
    await other.query('begin')
    await other.query(migrationSql('twinbox').lock)
    const stop = new AbortController()
    const migrating = applyFiles(laterFiles, database.url, { onWait, signal: stop.signal })
    await waited(1)
    stop.abort(new Error('stopped'))
    await expect(migrating).rejects.toThrow('stopped')
    await other.query('rollback')
    other.release()
    expect(await applyFiles(laterFiles, database.url)).toEqual([later.name])
  })

  test("inside the user's own Migrator it does not keep them waiting either", async () => {
    const open = await openTransaction()
    const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: openPool(database.url, 2) }) })
    const migrator = new Migrator({ db, provider: providerOf(laterFiles, 'twinbox') })
    expect((await migrator.migrateToLatest()).error).toMatchObject({ code: 'SCHEMA_BUSY' })
    await open.end()
    expect((await migrator.migrateToLatest()).error).toBeUndefined()
    await db.destroy()
    expect(await applied()).toEqual([...names, later.name])
  })

  test('the statements of a file are the file, and each ends with its semicolon', () => {
    for (const { sql } of migrationFiles()) {
      const statements = statementsOf(sql)
      expect(statements.join('').trim()).toBe(sql.trim())
      for (const statement of statements) {
        expect(statement.replaceAll(/--.*|\$\$[^]*?\$\$|'[^']*'/g, '').match(/;/g)).toHaveLength(1)
      }
    }
    expect(statementsOf(`select 'a;''b'; -- c; d\nselect $x$;$$;$x$;\n-- the end`)).toEqual([
      `select 'a;''b';`,
      ` -- c; d\nselect $x$;$$;$x$;`,
    ])
  })
})

describe("the user's own Kysely Migrator", () => {
  let db: Kysely<unknown>
  beforeEach(() => {
    db = new Kysely({
      dialect: new PostgresDialect({ pool: openPool(database.url, 2) }),
    })
  })
  afterEach(() => db.destroy())

  /** Ours among others: one before and one after by name. */
  const provider = (schema?: string): MigrationProvider => ({
    getMigrations: async () => ({
      a_first: { up: async (trx: Kysely<unknown>) => trx.schema.createTable('mine').execute() },
      ...(await twinboxMigrations(schema).getMigrations()),
      zz_last: { up: async (trx: Kysely<unknown>) => trx.schema.createTable('late').execute() },
    }),
  })
  const migrateAll = async (schema?: string): Promise<string[]> => {
    const { error, results } = await new Migrator({ db, provider: provider(schema) }).migrateToLatest()
    if (error !== undefined) throw new Error('The Migrator failed.', { cause: error })
    return results!.map(({ migrationName, status }) => `${migrationName} ${status}`)
  }
  const all = ['a_first', ...names.map((name) => `twinbox_${name}`), 'zz_last'].map(
    (name) => `${name} Success`,
  )

  test('it applies ours between its own, and migrate() finds nothing left to do', async () => {
    expect(await migrateAll()).toEqual(all)
    expect(await applied()).toEqual(names)
    expect(await migrate(database.url)).toEqual([])
    expect(await migrateAll()).toEqual([])
    await publishOne()
  })

  test('after migrate() it records ours without running them again', async () => {
    await migrate(database.url)
    await publishOne()
    const before = await structure()
    expect(await migrateAll()).toEqual(all)
    expect(await structure()).toEqual(before)
    expect(await applied()).toEqual(names)
  })

  test('it goes on where an older migrate() stopped', async () => {
    await database.query(migrationFiles()[0]!.sql)
    expect(await migrateAll()).toEqual(all)
    expect(await applied()).toEqual(names)
  })

  test('it takes turns with a migrate() at the same time', async () => {
    await Promise.all([migrateAll(), migrate(database.url), migrateAll(), migrate(database.url)])
    expect(await applied()).toEqual(names)
  })

  test('it takes another schema', async () => {
    expect(await migrateAll('order')).toEqual(all)
    expect(await applied('order')).toEqual(names)
    expect(await migrate(database.url, { schema: 'order' })).toEqual([])
  })
})

const broker: Broker = {
  name: 'none',
  send: () => Promise.reject(new Error('not called')),
  subscribe: () => Promise.reject(new Error('not called')),
  close: () => Promise.resolve(),
}

describe('tables of migrations that this version does not have', () => {
  const tables: readonly { name: string; sql: string; says: string }[] = [
    {
      name: 'of the time before the first release',
      sql: `create schema twinbox;
        create table twinbox.migration (version integer primary key, name text not null, applied_at timestamptz);
        insert into twinbox.migration (version, name)
        select nr, name from unnest(array['outbox', 'inbox', 'lease', 'failure', 'operate', 'private', 'routing'])
          with ordinality as m(name, nr)`,
      says: '6 "private", 7 "routing"',
    },
    {
      name: 'of that time, and half of them',
      sql: `create schema twinbox;
        create table twinbox.migration (version integer primary key, name text not null, applied_at timestamptz);
        insert into twinbox.migration (version, name) values (1, 'outbox'), (2, 'inbox')`,
      says: '1 "outbox", 2 "inbox"',
    },
    {
      name: 'of another line with the same numbers',
      sql: `${migrationFiles()
        .map(({ sql }) => sql)
        .join('\n')}
        update twinbox.migration set name = 'otherwise' where version = 2`,
      says: '2 "otherwise"',
    },
  ]

  test.each(tables)(
    'are refused by whoever meets them, and stay as they are: $name',
    async ({ sql, says }) => {
      await database.query(sql)
      const before = await structure()
      const recorded = await applied()
      const refusal = {
        name: 'SchemaError',
        code: 'SCHEMA_UNKNOWN',
        message: expect.stringMatching(
          new RegExp(`twinbox.*does not have: ${says}\\..*drop the schema`),
        ) as string,
      }
      await expect(migrate(database.url)).rejects.toMatchObject(refusal)
      const relay = createRelay({ database: database.url, broker })
      await expect(relay.start()).rejects.toMatchObject(refusal)
      expect((await diagnose(database.url)).filter(({ check }) => check === 'schema')).toMatchObject([
        { level: 'wrong', found: refusal.message },
      ])
      const db = new Kysely<unknown>({ dialect: new PostgresDialect({ pool: openPool(database.url, 2) }) })
      const migrator = new Migrator({ db, provider: twinboxMigrations() })
      expect((await migrator.migrateToLatest()).error).toMatchObject(refusal)
      await db.destroy()
      expect(await structure()).toEqual(before)
      expect(await applied()).toEqual(recorded)
    },
  )
})

describe('a worker at its start', () => {
  const workers = [
    { kind: 'relay', create: (url: string) => createRelay({ database: url, broker }) },
    {
      kind: 'receiver',
      create: (url: string) => createReceiver({ database: url, broker, consumer: 'billing', topics: ['t'] }),
    },
    {
      kind: 'claimer',
      create: (url: string) => createClaimer({ database: url, consumer: 'billing' }, { t: () => {} }),
    },
  ]

  test.each(workers)(
    'a $kind refuses a database without tables, an older and a newer one',
    async ({ create }) => {
      const refusal = (code: string, ...says: (string | number)[]): object => ({
        name: 'SchemaError',
        code,
        message: expect.stringMatching(new RegExp(says.join('.*'))) as string,
      })
      await expect(create(database.url).start()).rejects.toMatchObject(
        refusal('SCHEMA_MISSING', 'twinbox', 'migrate'),
      )
      await database.query(migrationFiles()[0]!.sql)
      await expect(create(database.url).start()).rejects.toMatchObject(
        refusal('SCHEMA_BEHIND', 1, newest, 'migrate'),
      )
      await migrate(database.url)
      await database.query('insert into twinbox.migration values ($1, $2, $1)', [newest + 1, 'future'])
      await expect(create(database.url).start()).rejects.toMatchObject(
        refusal('SCHEMA_AHEAD', newest + 1, newest),
      )
      expect(await database.query('select from twinbox.worker')).toEqual([])
      expect(await database.query('select from twinbox.lane where holder is not null')).toEqual([])
      // Nothing was left connected either; the last of them may still be closing.
      let connected: unknown[]
      do {
        connected = await database.query(
          `select from pg_stat_activity where datname = current_database() and application_name like 'twinbox%'`,
        )
      } while (connected.length > 0)
    },
  )
})

describe('workers of one version on the tables of another', () => {
  /** A migration to come, of which workers that know `oldestWorker` need not know. */
  const toCome = (version: number, oldestWorker: number): MigrationFile => ({
    version,
    name: `${String(version).padStart(4, '0')}_later${version}`,
    sql: `alter table twinbox.outbox add column later${version} text;
      alter table twinbox.inbox add column later${version} text;
      alter table twinbox.lane add column later${version} integer not null default 7;
      alter table twinbox.worker add column later${version} timestamptz;
      create table twinbox.later${version} (id integer primary key);
      insert into twinbox.migration (version, name, oldest_worker)
      values (${version}, 'later${version}', ${oldestWorker});`,
  })
  const migrateTo = (...files: MigrationFile[]): Promise<string[]> =>
    applyFiles((schema) => [...migrationFiles(schema), ...files], database.url)
  const ahead = (version: number, needed: number): object => ({
    name: 'SchemaError',
    code: 'SCHEMA_AHEAD',
    message: expect.stringMatching(
      new RegExp(`at migration ${version}, newer than the ${newest} .* know migration ${needed} .*Upgrade`),
    ) as string,
  })

  test('newer tables that let them work: messages arrive, and the doctor says so in one line', async () => {
    await migrateTo(toCome(newest + 1, newest), toCome(newest + 2, newest - 1))
    const real = postgres({ database: database.url })
    const handled: unknown[] = []
    const claimer = createClaimer(
      { database: database.url, consumer: 'billing', onEvent: ({ type }) => type === 'handled' && done() },
      { '#': (message) => void handled.push(message.payload) },
    )
    let done = (): void => {}
    const twice = new Promise<void>((wake) => (done = () => handled.length === 2 && wake()))
    const workers = [
      createReceiver({ database: database.url, broker: real, consumer: 'billing', topics: ['#'] }),
      createRelay({ database: database.url, broker: real }),
      claimer,
    ]
    for (const worker of workers) await worker.start()
    await publishOne()
    await database.query(`select twinbox.publish('t', '2')`)
    await twice
    for (const worker of workers) await worker.stop()
    await real.close()
    expect(new Set(handled)).toEqual(new Set([1, 2]))
    expect(await database.query('select from twinbox.outbox union all select from twinbox.inbox')).toEqual([])
    expect((await readStatus(database.url)).migration).toBe(newest + 2)
    expect((await diagnose(database.url)).filter(({ check }) => check === 'schema')).toEqual([
      {
        check: 'schema',
        level: 'note',
        found: `The schema "twinbox" is at migration ${newest + 2}, newer than the ${newest} of this version, and lets its workers work.`,
        advice: expect.stringContaining('not compared') as string,
      },
    ])
    // A process that migrates at its start, and is of the version before.
    const before = await structure()
    expect(await migrate(database.url)).toEqual([])
    // It would take the newer workers' rights back.
    await expect(applyRoles(database.url)).rejects.toMatchObject({ code: 'SCHEMA_AHEAD' })
    expect(await structure()).toEqual(before)
  })

  test.each([
    { name: 'do not let them work', files: [toCome(newest + 1, newest + 1)], needed: newest + 1 },
    {
      name: 'did not let them work one migration before',
      files: [toCome(newest + 1, newest + 1), toCome(newest + 2, newest)],
      needed: newest + 1,
    },
  ])('newer tables that $name are refused by all', async ({ files, needed }) => {
    await migrateTo(...files)
    const refusal = ahead(newest + files.length, needed)
    for (const worker of [
      createRelay({ database: database.url, broker }),
      createReceiver({ database: database.url, broker, consumer: 'billing', topics: ['t'] }),
      createClaimer({ database: database.url, consumer: 'billing' }, { t: () => {} }),
    ])
      await expect(worker.start()).rejects.toMatchObject(refusal)
    await expect(migrate(database.url)).rejects.toMatchObject(refusal)
    await expect(applyRoles(database.url)).rejects.toMatchObject(refusal)
    await expect(readStatus(database.url)).rejects.toMatchObject(refusal)
    expect((await diagnose(database.url)).filter(({ check }) => check === 'schema')).toMatchObject([
      { level: 'wrong', found: expect.stringContaining('Upgrade the package') as string },
    ])
    expect(await database.query('select from twinbox.worker')).toEqual([])
  })

  test('older tables: as far back as the range of the version goes', async () => {
    for (const { sql } of migrationFiles().slice(0, -1)) await database.query(sql)
    const opened = openDatabase(database.url)
    const range = { oldest: newest - 1, newest }
    try {
      expect(await checkSchemaVersion(opened.database, null, range)).toEqual({
        ...range,
        version: newest - 1,
      })
      await expect(
        checkSchemaVersion(opened.database, null, { oldest: newest, newest }),
      ).rejects.toMatchObject({
        code: 'SCHEMA_BEHIND',
        message: expect.stringContaining(
          `at migration ${newest - 1} and this version of Twinbox needs ${newest}`,
        ) as string,
      })
    } finally {
      await opened.database.close()
    }
  })

  test('the range begins with a migration that there is', () => {
    const { oldest, newest: last } = rangeOf(migrationFiles())
    expect(last).toBe(newest)
    expect(oldest).toBeGreaterThan(0)
    expect(oldest).toBeLessThanOrEqual(newest)
  })
})

describe.each([{ server: 'the server under test' }, { server: 'the embedded PostgreSQL' }])(
  'on $server',
  ({ server }) => {
    let embedded: Awaited<ReturnType<typeof startEmbedded>> | null = null
    let pool: pg.Pool
    let schemas = 0
    let schema: string
    beforeAll(async () => {
      if (server === 'the embedded PostgreSQL') embedded = await startEmbedded()
    })
    afterAll(() => embedded?.stop())
    beforeEach(async () => {
      pool = openPool(embedded?.address.url ?? database.url, 1)
      schema = `twinbox_${schemas++}`
      await migrate(pool, { schema })
    })
    afterEach(() => pool.end())

    const rows = async <Row extends pg.QueryResultRow>(text: string): Promise<Row[]> =>
      (await pool.query<Row>(text, [schema])).rows

    test('no index holds a column of the lease', async () => {
      const lease = [
        'lease_until',
        'holder',
        'fence',
        'attempt',
        'watermark',
        'reach',
        'beat_at',
        'in_flight',
      ]
      const indexes = await rows<{ name: string; columns: string[]; predicate: string | null }>(
        `select i.indexrelid::regclass::text as name, pg_get_expr(i.indpred, i.indrelid) as predicate,
        array(select attname::text from pg_attribute where attrelid = i.indexrelid) as columns
      from pg_index as i join pg_class as c on c.oid = i.indrelid
      where c.relnamespace = $1::regnamespace`,
      )
      expect(indexes.length).toBeGreaterThan(8)
      for (const { name, columns, predicate } of indexes) {
        const touched = lease.filter(
          (column) => columns.includes(column) || new RegExp(`\\b${column}\\b`).test(predicate ?? ''),
        )
        expect([name, touched]).toEqual([name, []])
      }
      const updated = await rows<{ column: string }>(
        `select attname as column from pg_attribute as a join pg_class as c on c.oid = a.attrelid
      where c.relnamespace = $1::regnamespace and c.relkind = 'r' and attname in ('lease_until', 'holder', 'fence')`,
      )
      // The rule above is about columns that exist.
      expect(updated.length).toBeGreaterThanOrEqual(6)
    })

    test('every table has a primary key', async () => {
      const tables = await rows<{ name: string; keyed: boolean }>(
        `select c.relname as name, exists (select from pg_index as i where i.indrelid = c.oid and i.indisprimary) as keyed
        from pg_class as c where c.relnamespace = $1::regnamespace and c.relkind in ('r', 'p')`,
      )
      expect(tables.length).toBeGreaterThan(12)
      // Without one, a publication for all tables forbids to update it and to delete from it.
      expect(tables.filter(({ keyed }) => !keyed)).toEqual([])
    })

    test('hot tables have one index, which starts with what every read names', async () => {
      const indexes = await rows<{ table: string; columns: string[] }>(
        `select c.relname as table,
        array(select attname::text from pg_attribute where attrelid = i.indexrelid order by attnum) as columns
      from pg_index as i join pg_class as c on c.oid = i.indrelid
      where c.relnamespace = $1::regnamespace and c.relname in ('outbox', 'inbox', 'lane') order by c.relname`,
      )
      expect(indexes).toEqual([
        { table: 'inbox', columns: ['consumer', 'lane', 'seq'] },
        { table: 'lane', columns: ['consumer', 'lane'] },
        { table: 'outbox', columns: ['lane', 'seq'] },
      ])
    })

    test('what is updated in place has room on its page, and what is deleted is vacuumed soon', async () => {
      const tables = await rows<{ name: string; options: Record<string, string> }>(
        `select c.relname as name, (
        select coalesce(json_object_agg(o.option_name, o.option_value), '{}') from pg_options_to_table(c.reloptions) as o
      ) as options
      from pg_class as c where c.relnamespace = $1::regnamespace and c.relkind = 'r'`,
      )
      const options = Object.fromEntries(tables.map((table) => [table.name, table.options]))
      expect(options).toMatchObject({
        inbox: { fillfactor: '50' },
        lane: { fillfactor: '10' },
        worker: { fillfactor: '10' },
      })
      for (const table of ['outbox', 'inbox', 'dedupe', 'seen', 'deferred', 'parked_message']) {
        expect([table, options[table]?.autovacuum_vacuum_scale_factor]).toEqual([table, '0.01'])
        expect([table, options[table]?.autovacuum_vacuum_threshold]).toEqual([table, '1000'])
      }
      for (const table of ['outbox', 'inbox']) {
        expect([table, options[table]?.autovacuum_vacuum_cost_delay]).toEqual([table, '0'])
      }
    })

    test('a sequence hands out its numbers one by one', async () => {
      // With a cache, a later transaction could draw an earlier number.
      const sequences = await rows<{ cache: string }>(
        `select s.seqcache as cache from pg_sequence as s join pg_class as c on c.oid = s.seqrelid
      where c.relnamespace = $1::regnamespace`,
      )
      expect(sequences.length).toBeGreaterThanOrEqual(4)
      expect(new Set(sequences.map(({ cache }) => cache))).toEqual(new Set(['1']))
    })

    test('a message is published and known as a duplicate', async () => {
      const client = await pool.connect()
      try {
        const outbox = createOutbox({ schema })
        await client.query('begin')
        const { id } = await outbox.publish(client, { topic: 't', payload: '\0', key: 'k', dedupeKey: 'd' })
        const bySql = await client.query(
          `select * from ${schema}.publish('t', '2', dedupe_key => 'd', headers => '{"a":"b"}')`,
        )
        await client.query('commit')
        expect(bySql.rows).toEqual([{ id, duplicate: true }])
        expect((await client.query(`select payload::text from ${schema}.outbox`)).rows).toEqual([
          { payload: '"\\u0000"' },
        ])
      } finally {
        client.release()
      }
    })
  },
)

/** A pool whose connections may be ended by `drop` while they are closing: `end` does not wait until they are. */
function openPool(connectionString: string, max: number): pg.Pool {
  const pool = new pg.Pool({ connectionString, max })
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  return pool
}
