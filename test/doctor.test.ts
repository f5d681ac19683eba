import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { relayTasks } from '../src/upkeep/prune.ts'
import { createOutbox, diagnose, migrate, prune, type DiagnoseOptions, type Finding } from '../src/index.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.drop())

const wrongs = async (options?: DiagnoseOptions, url = database.url): Promise<Finding[]> =>
  (await diagnose(url, options)).filter(({ level }) => level === 'wrong')

/** What the server itself is set to, and who else uses it, is none of the tests' business. */
const ours = (findings: readonly Finding[]): Finding[] =>
  findings.filter(({ check }) => !['vacuum', 'durability', 'connections'].includes(check))

/** Breaks something, looks, and mends it. */
async function broken(how: string, mend: string, options?: DiagnoseOptions): Promise<Finding[]> {
  await database.query(how)
  try {
    return await diagnose(database.url, options)
  } finally {
    await database.query(mend)
  }
}

describe('doctor', () => {
  test('finds nothing wrong with what migrate has made, under any name', async () => {
    expect(ours(await wrongs())).toEqual([])
    await migrate(database.url, { schema: 'messaging' })
    const findings = await diagnose(database.url, { schema: 'messaging' })
    expect(ours(findings).filter(({ level }) => level === 'wrong')).toEqual([])
    expect(findings.find(({ check }) => check === 'schema')).toMatchObject({ level: 'ok' })
    // What it has compared with is gone.
    expect(await database.query(`select from pg_namespace where nspname like 'doctor%'`)).toEqual([])
  })

  test('says that there are no tables, and what to run', async () => {
    expect(ours(await wrongs({ schema: 'nowhere' }))).toEqual([
      {
        check: 'schema',
        level: 'wrong',
        found: expect.stringContaining('npx twinbox migrate') as string,
        advice: expect.any(String) as string,
      },
    ])
  })

  test('finds settings that are in the way of the application’s connections', async () => {
    const name = new URL(database.url).pathname.slice(1)
    const settings = ['array_nulls', 'default_transaction_read_only']
    const found = await broken(
      `alter database ${name} set array_nulls = off; alter database ${name} set default_transaction_read_only = on`,
      settings
        .map((setting) => `begin read write; alter database ${name} reset ${setting}; commit`)
        .join(';'),
    )
    const session = found.filter(({ check }) => check === 'session')
    expect(session.map((finding) => [finding.level, finding.found.split(' ')[0]])).toEqual(
      settings.map((setting) => ['wrong', setting]),
    )
  })

  test.each([
    {
      how: 'alter table twinbox.inbox drop column avoid',
      mend: 'alter table twinbox.inbox add column avoid integer',
      level: 'wrong',
      found: 'The column inbox.avoid is missing.',
    },
    {
      how: 'alter table twinbox.outbox alter column attempt type integer',
      mend: 'alter table twinbox.outbox alter column attempt type smallint',
      level: 'wrong',
      found: 'The column outbox.attempt is not as the migrations make it: integer not null default 0.',
    },
    {
      how: 'alter domain twinbox.key_text drop constraint key_text_check',
      mend: `alter domain twinbox.key_text add constraint key_text_check check (value <> '' and octet_length(value) <= 255)`,
      level: 'wrong',
      found: 'The domain key_text is not as the migrations make it: text.',
    },
    {
      how: 'create index mine on twinbox.inbox (topic)',
      mend: 'drop index twinbox.mine',
      level: 'note',
      found: 'The index mine is not of Twinbox.',
    },
    {
      how: 'drop index twinbox.seen_at',
      mend: 'create index seen_at on twinbox.seen using brin (seen_at) with (autosummarize = on)',
      level: 'wrong',
      found: 'The index seen_at is missing.',
    },
    {
      how: 'alter table twinbox.lane set (fillfactor = 100)',
      mend: 'alter table twinbox.lane set (fillfactor = 10)',
      level: 'note',
      found: expect.stringMatching(
        /^The storage settings of lane is not as the migrations make it/,
      ) as string,
    },
    {
      how: 'alter table twinbox.dead_letter set unlogged',
      mend: 'alter table twinbox.dead_letter set logged',
      level: 'wrong',
      found: 'The table dead_letter is unlogged: a crash empties it.',
    },
    {
      how: 'alter table twinbox.seen set (autovacuum_enabled = off)',
      mend: 'alter table twinbox.seen reset (autovacuum_enabled)',
      level: 'wrong',
      found: 'Autovacuum is switched off for seen.',
    },
    {
      how: `insert into twinbox.subscription values ('gone', '#')`,
      mend: `delete from twinbox.subscription where consumer = 'gone'`,
      level: 'wrong',
      found:
        'The consumer "gone" is subscribed, but none of its workers has run for an hour: what is sent to it piles up.',
    },
    {
      how: 'grant execute on function twinbox.lane_of to public',
      mend: 'revoke execute on function twinbox.lane_of from public',
      level: 'note',
      found: expect.stringMatching(/^Everybody who may use the schema has rights on: .*lane_of/) as string,
    },
  ])('sees it: $how', async ({ how, mend, level, found }) => {
    const findings = await broken(how, mend)
    expect(findings).toContainEqual({
      check: expect.any(String) as string,
      level,
      found,
      advice: expect.any(String) as string,
    })
  })

  test('sees work that nobody does, and lanes that nobody takes', async () => {
    await database.transaction((client) => createOutbox().publish(client, { topic: 't', payload: 1 }))
    await database.query(`update twinbox.outbox set published_at = now() - interval '1 minute'`)
    try {
      expect(ours(await wrongs())).toMatchObject([
        { check: 'work', found: 'Messages wait in the outbox, and no relay is running.' },
      ])
      await database.query(`insert into twinbox.worker (kind, consumer, host, pid, version, application)
        values ('relay', '', 'h', 1, '1', 'a')`)
      expect(ours(await wrongs())).toMatchObject([
        { found: '1 lanes of the outbox have messages in them, and nobody has taken them for 30 s.' },
      ])
    } finally {
      await database.query('truncate twinbox.outbox, twinbox.worker')
    }
  })

  test('sees a backlog that is old, in the outbox and in an inbox, and of what it is', async () => {
    const rows = (ago: string): string => `
      insert into twinbox.outbox (lane, id, topic, payload, published_at)
        select n, gen_random_uuid(), 'order.placed', '1', now() - interval '${ago}' from generate_series(0, 4) as n;
      insert into twinbox.inbox (consumer, lane, id, topic, key, payload, received_at)
        select 'billing', 3, gen_random_uuid(), 'order.' || n, 'k', '1', now() - interval '${ago}' from generate_series(1, 3) as n`
    const waiting = (findings: readonly Finding[]): string[] =>
      findings.filter(({ check, level }) => check === 'work' && level === 'note').map(({ found }) => found)
    const empty = 'delete from twinbox.outbox; delete from twinbox.inbox'
    expect(waiting(await broken(rows('9 minutes'), empty))).toEqual([])
    expect(waiting(await broken(rows('11 minutes'), empty))).toEqual([
      expect.stringMatching(/^5 messages wait in the outbox, the oldest for 11 .*order.placed 5\.$/),
      expect.stringMatching(/^3 messages wait in the inbox of "billing".*order.1 1, order.2 1, order.3 1\.$/),
    ])
  })

  test('tells of dead letters that nobody looks at; they stay until somebody says so, who is written down', async () => {
    await database.query(`insert into twinbox.dead_letter (consumer, id, topic, key, payload, attempt, reason, died_at)
      select case when n > 3 then 'billing' else '' end, gen_random_uuid(), 't', 'k' || n, '1', 1, 'no', now() - n * interval '40 days'
      from generate_series(1, 5) as n`)
    const left = async (): Promise<number> => (await database.query('select from twinbox.dead_letter')).length
    const forgotten = async (): Promise<Finding[]> =>
      (await diagnose(database.url)).filter(({ check }) => check === 'retention')
    try {
      expect(await forgotten()).toEqual([
        expect.objectContaining({
          level: 'note',
          found: expect.stringMatching(/^2 dead letters of "billing" are older than 90 days/) as string,
          advice: expect.stringContaining(
            'twinbox prune dead --consumer billing --older-than 90d --dry-run',
          ) as string,
        }),
        expect.objectContaining({
          found: expect.stringMatching(/^1 dead letters of the outbox .*oldest/) as string,
          advice: expect.stringContaining('--outbox') as string,
        }),
      ])
      // What workers prune by themselves has no dead letter in it.
      expect(relayTasks.map(({ kind }) => kind)).not.toContain('dead')
      const old = { consumer: 'billing', olderThanMs: 90 * 24 * 3_600_000, by: 'ann', reason: 'seen' }
      expect(await prune(database.url, 'dead', { ...old, dryRun: true })).toBe(2)
      expect(await left()).toBe(5)
      expect(await prune(database.url, 'dead', old)).toBe(2)
      expect(await left()).toBe(3)
      expect(
        await database.query(`select key, who, why from twinbox.audit where action = 'prune' order by key`),
      ).toEqual([
        { key: 'k4', who: 'ann', why: 'seen' },
        { key: 'k5', who: 'ann', why: 'seen' },
      ])
      expect((await forgotten()).map(({ found }) => found)).toEqual([expect.stringContaining('the outbox')])
    } finally {
      await database.query('truncate twinbox.dead_letter, twinbox.audit')
    }
  })

  test('names who holds dead rows, and how to end it', async () => {
    const client = new pg.Client({ connectionString: database.url, application_name: 'reporting' })
    await client.connect()
    try {
      await client.query('begin isolation level repeatable read; select 1')
      // As if for long: a test cannot wait until it is.
      const [{ pid }] = (await client.query<{ pid: number }>('select pg_backend_pid() as pid')).rows as [
        { pid: number },
      ]
      const { adviceFor, vacuum } = await import('../src/doctor/server.ts')
      const { readHorizon } = await import('../src/observe/gauges.ts')
      const { openDatabase } = await import('../src/database/database.ts')
      const { database: own } = openDatabase(database.url, { poolSize: 1 })
      const horizon = await readHorizon(own)
      await own.close()
      const held = horizon.find((holder) => holder.pid === pid)
      expect(held).toMatchObject({ source: 'session', application: 'reporting' })
      const server = { autovacuum: 'on', track_counts: 'on', sees_all: true, me: 'me' }
      expect(vacuum(server, [{ ...held!, seconds: 3600 }])).toEqual([
        {
          check: 'vacuum',
          level: 'wrong',
          found: expect.stringMatching(
            new RegExp(
              `^Dead rows cannot be removed: session ${pid} of .* \\(reporting\\) has held them for 60 min`,
            ),
          ) as string,
          advice: expect.stringContaining(`pg_terminate_backend(${pid})`) as string,
        },
      ])
      expect(adviceFor('replication slot', 'old', null)).toContain(`pg_drop_replication_slot('old')`)
      expect(adviceFor('prepared transaction', 'gid', null)).toContain(`rollback prepared 'gid'`)
    } finally {
      await client.end()
    }
  })

  test('sees a user that commits without waiting for the disk', async () => {
    const [{ name }] = (await database.query<{ name: string }>('select current_database() as name')) as [
      { name: string },
    ]
    const findings = await broken(
      `alter database ${name} set synchronous_commit = off`,
      `alter database ${name} reset synchronous_commit`,
    )
    expect(findings.find(({ check }) => check === 'durability')).toMatchObject({
      level: 'wrong',
      found: expect.stringContaining('synchronous_commit is off') as string,
    })
  })

  test('sees that a configuration wants more connections than there are', async () => {
    const findings = await wrongs({ demand: [{ who: 'claimer billing', connections: 100_000 }] })
    expect(findings.find(({ check }) => check === 'connections')!.found).toMatch(
      /^One process of this configuration may want 100000 connections, .* claimer billing wants 100000\.$/,
    )
  })

  test('tells a user without rights which role is wanting', async () => {
    const name = `doctor_${process.pid}_${Date.now() % 100_000}`
    await database.query(`create role ${name} login password 'secret'`)
    try {
      const url = Object.assign(new URL(database.url), { username: name, password: 'secret' }).toString()
      const found = ours(await wrongs({}, url))
      expect(found[0]).toMatchObject({ check: 'schema', level: 'wrong' })
      await database.query(
        `grant usage on schema twinbox to ${name}; grant select on twinbox.migration to ${name}`,
      )
      const findings = await diagnose(url)
      expect(findings.find(({ check }) => check === 'schema')).toMatchObject({ level: 'note' })
      expect(findings.find(({ check, level }) => check === 'grants' && level === 'wrong')).toMatchObject({
        found: expect.stringMatching(
          new RegExp(`^The user ${name} may be none of publisher, .*: as \\w+ it lacks`),
        ) as string,
      })
    } finally {
      await database.query(`drop owned by ${name}; drop role ${name}`)
    }
  })
})
