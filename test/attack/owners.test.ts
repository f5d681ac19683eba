import { randomBytes } from 'node:crypto'
import { Kysely, Migrator, PostgresDialect } from 'kysely'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { diagnose, migrate, migrationFiles, twinboxMigrations, type Finding } from '../../src/index.ts'
import { createTestDatabase, serverUrl, type TestDatabase } from '../support/postgres.ts'

/** Somebody who may create schemas, or in ours, puts something there that runs with the rights of whoever comes later. */

const unique = `o${randomBytes(5).toString('hex')}`
const [mallory, app, team] = [`${unique}_mallory`, `${unique}_app`, `${unique}_team`] as const
const roles = [mallory, app, team]
let database: TestDatabase

beforeEach(async () => {
  database = await createTestDatabase({ migrated: false })
  const name = new URL(database.url).pathname.slice(1)
  for (const role of roles) await database.query(`create role ${role} login password 'secret'`)
  await database.query(`grant create on database ${name} to ${mallory}, ${app}, ${team}`)
  // For the table of the user's own Migrator.
  await database.query(`grant create on schema public to ${app}`)
})
afterEach(async () => {
  await database.drop()
  const server = new pg.Client({ connectionString: await serverUrl() })
  await server.connect()
  for (const role of roles) await server.query(`drop role ${role}`)
  await server.end()
})

const urlOf = (role: string): string =>
  Object.assign(new URL(database.url), { username: role, password: 'secret' }).toString()

async function as(role: string, ...statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: urlOf(role) })
  await client.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}

const standing = (): Promise<unknown[]> =>
  database.query(
    `select classid::regclass::text, objid from pg_depend where refclassid = 'pg_namespace'::regclass
      and refobjid = to_regnamespace('twinbox') order by 1, 2`,
  )
const ownersSaid = async (): Promise<Finding[]> =>
  (await diagnose(database.url)).filter(({ check }) => check === 'owners')
const refused = (what: RegExp) => ({ code: 'FOREIGN_OWNER', message: expect.stringMatching(what) as string })
const names = migrationFiles().map(({ name }) => name)

describe('a schema of somebody else’s', () => {
  test.each(['a superuser', 'the application'])('is not migrated by %s', async (who) => {
    await as(mallory, 'create schema twinbox', `grant all on schema twinbox to ${app}`)
    const url = who === 'a superuser' ? database.url : urlOf(app)
    const what = new RegExp(`schema twinbox belongs to ${mallory}.*grant ${mallory} to.*alter schema`)
    await expect(migrate(url)).rejects.toMatchObject(refused(what))
    const db = new Kysely<unknown>({
      dialect: new PostgresDialect({ pool: new pg.Pool({ connectionString: url, max: 2 }) }),
    })
    const { error } = await new Migrator({ db, provider: twinboxMigrations() }).migrateToLatest()
    await db.destroy()
    expect(error).toMatchObject(refused(what))
    expect(await standing()).toEqual([])
  })

  test('is not taken for migrated either, when its owner has migrated it', async () => {
    await migrate(urlOf(mallory))
    await expect(migrate(database.url)).rejects.toMatchObject(refused(/schema twinbox.*and so with \d+ more/))
    expect(await migrate(urlOf(mallory))).toEqual([])
  })

  test('that appears while the migration begins is not kept', async () => {
    // What the first file finds there, it takes for the schema that it would have made.
    const files = migrationFiles()
    const { applyFiles } = await import('../../src/database/migrate.ts')
    await expect(
      applyFiles(
        () => [
          {
            ...files[0]!,
            sql: `set local role ${mallory}; create schema twinbox; reset role;\n${files[0]!.sql}`,
          },
          ...files.slice(1),
        ],
        database.url,
      ),
    ).rejects.toMatchObject(refused(/schema twinbox belongs/))
    expect(await standing()).toEqual([])
  })
})

describe('what somebody else has put into the schema', () => {
  const traps: Readonly<Record<string, readonly string[]>> = {
    'function twinbox.lane_of(pg_catalog.text)': [
      `create function twinbox.lane_of(key text) returns smallint language sql immutable as 'select 1::smallint'`,
    ],
    'operator twinbox.*(double precision,integer)': [
      `create function pg_temp.f(float8, int) returns float8 language sql as 'select $1'`,
      `create function twinbox.times(float8, int) returns float8 language sql as 'select $1'`,
      `create operator twinbox.* (leftarg = float8, rightarg = int, function = twinbox.times)`,
    ],
    'view twinbox.migration': [
      `create function twinbox.spring() returns int language plpgsql as 'begin raise exception ''sprung''; end'`,
      `create view twinbox.migration as select twinbox.spring() as version, ''::text as name`,
      `grant select on twinbox.migration to public`,
    ],
    'sequence twinbox.s': ['create sequence twinbox.s'],
    'type twinbox.uuid': ['create type twinbox.uuid as (x int)'],
    'table twinbox.other': ['create table twinbox.other (n int)'],
  }

  test.each(Object.entries(traps))('before the migration: %s', async (object, statements) => {
    await database.query('create schema twinbox')
    await database.query(`grant usage, create on schema twinbox to ${mallory}, ${app}`)
    await as(mallory, ...statements)
    const before = await standing()
    const what = object.replaceAll(/[*().]/g, String.raw`\$&`)
    for (const url of [database.url, urlOf(app)])
      await expect(migrate(url)).rejects.toMatchObject(refused(new RegExp(`${what} belongs to ${mallory}`)))
    expect(await standing()).toEqual(before)
  })

  test('after it: the doctor names it, and who may put more there', async () => {
    await migrate(database.url)
    expect(await ownersSaid()).toMatchObject([{ level: 'ok' }])
    await database.query(`grant usage, create on schema twinbox to ${mallory}`)
    await as(mallory, traps['operator twinbox.*(double precision,integer)']![1]!)
    expect(await ownersSaid()).toMatchObject([
      {
        level: 'wrong',
        found: expect.stringContaining(
          `function twinbox.times(double precision,integer) belongs to ${mallory}`,
        ),
      },
      {
        level: 'wrong',
        found: expect.stringMatching(`^${mallory} may create`),
        advice: expect.stringContaining('revoke create'),
      },
    ])
    await expect(migrate(database.url)).rejects.toMatchObject(refused(/twinbox\.times/))
    await database.query('grant create on schema twinbox to public')
    expect((await ownersSaid()).map(({ found }) => found)).toContainEqual(
      expect.stringMatching(/^Everybody may create/),
    )
    await database.query('drop function twinbox.times')
    expect(await migrate(database.url)).toEqual([])
  })
})

describe('a schema that one may trust', () => {
  const wellOwned = async (): Promise<void> => expect(await ownersSaid()).toMatchObject([{ level: 'ok' }])

  test('belongs to a role of which the user is a member, over another one', async () => {
    await database.query(`create role ${unique}_between in role ${team}`)
    try {
      await database.query(`grant ${unique}_between to ${app}`)
      await as(team, 'create schema twinbox', `grant all on schema twinbox to ${app}`)
      expect(await migrate(urlOf(app))).toEqual(names)
      await wellOwned()
    } finally {
      await database.query(`drop role ${unique}_between`)
    }
  })

  test('belongs to a superuser, or to the owner of the database, who lets the application create in it', async () => {
    await database.query('create schema twinbox')
    await database.query(`grant usage, create on schema twinbox to ${app}`)
    expect(await migrate(urlOf(app))).toEqual(names)
    await wellOwned()
    await database.query(`alter database ${new URL(database.url).pathname.slice(1)} owner to ${team}`)
    await database.query(`alter schema twinbox owner to ${team}`)
    expect(await migrate(urlOf(app))).toEqual([])
    await wellOwned()
  })

  test('is migrated by a superuser in the name of its owner', async () => {
    await as(app, 'create schema twinbox')
    await expect(migrate(database.url)).rejects.toMatchObject(refused(/belongs to/))
    const url = `${database.url}?options=${encodeURIComponent(`-c role=${app}`)}`
    expect(await migrate(url)).toEqual(names)
    const owners = await database.query(
      `select distinct relowner::regrole::text as owner from pg_class where relnamespace = 'twinbox'::regnamespace`,
    )
    expect(owners).toEqual([{ owner: app }])
    expect(await migrate(urlOf(app))).toEqual([])
    await wellOwned()
  })
})
