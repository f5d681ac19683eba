import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { currentXid, serverIdentity, transactionStatus } from '../../src/database/sql/server.ts'
import { createClaimer, type TwinboxEvent } from '../../src/index.ts'
import { Stage } from '../crash/stage.ts'
import type { TestDatabase } from '../support/postgres.ts'
import { createLastingDatabase, startServer } from '../support/replication.ts'
import { aliveSince, crashBackend, publishThroughout } from './load.ts'

/** Postgres stops without a goodbye, and comes back. */
let server: Awaited<ReturnType<typeof startServer>>
let stage: Stage | undefined
beforeAll(async () => {
  server = await startServer()
})
afterEach(() => stage?.close())
afterAll(() => server.stop())

/** As an operator may do at any time. */
async function resetStatistics(database: TestDatabase): Promise<void> {
  const [{ version }] = (await database.query<{ version: number }>(
    "select current_setting('server_version_num')::int as version",
  )) as [{ version: number }]
  await database.query(`select pg_stat_reset_shared(${version >= 170_000 ? '' : "'wal'"})`)
}

test('everybody resumes by itself, nothing is lost, and nobody is taken for dead', async () => {
  const database = await createLastingDatabase(server.url)
  const staged = (stage = await Stage.open({ kind: 'postgres' }, { database }))
  const receiver = staged.start({ role: 'receiver' })
  await receiver.started
  const relays = [1, 2].map(() => staged.start({ role: 'relay' }))
  const claimers = [1, 2, 3].map(() => staged.start({ role: 'claimer', handleMs: 2 }))
  const workers = [receiver, ...relays, ...claimers]
  await Promise.all(workers.map(({ started }) => started))

  const load = publishThroughout(staged, 2)
  await staged.until('select count(*) > 100 as done from effects')
  for (let round = 0; round < 2; round++) {
    const [{ count }] = (await staged.database.query<{ count: number }>(
      'select count(*)::int as count from effects',
    )) as [{ count: number }]
    await server.kill('SIGQUIT')
    await server.start()
    await staged.until(`select count(*) > ${count + 100} as done from effects`)
    await staged.until(aliveSince(workers.length, 'pg_postmaster_start_time()'))
  }
  await load.stop()
  await staged.drained()

  expect(await staged.faults()).toEqual([])
  expect(workers.flatMap(({ events }) => events.filter(({ type }) => type === 'worker_dead'))).toEqual([])
  for (const worker of workers) expect(await worker.end()).toBe(0)
})

test('after a crash nobody believes that a transaction was committed by its id alone', async () => {
  // What was not written yet is gone after a crash, and the ids of its transactions are given out again.
  const database = await createLastingDatabase(server.url)
  const status = async (id: string): Promise<string | null> =>
    (
      await database.query<{ status: string | null }>(
        transactionStatus.text,
        transactionStatus.bind({ xid: id }),
      )
    )[0]!.status
  const transaction = async (end: 'commit' | 'rollback'): Promise<string> => {
    const client = await database.pool.connect()
    await client.query('begin')
    await client.query("select pg_logical_emit_message(true, 'test', 'written')")
    const { rows } = await client.query<{ xid: string }>(currentXid)
    await client.query(end)
    client.release()
    return rows[0]!.xid
  }
  const crashes = [
    // Of the whole server, and of one process, after which the others start again without a restart.
    async () => {
      await server.kill('SIGQUIT')
      await server.start()
    },
    () => crashBackend(database),
  ]
  for (const crash of crashes) {
    const [committed, rolledBack] = [await transaction('commit'), await transaction('rollback')]
    expect([await status(committed), await status(rolledBack)]).toEqual(['committed', 'aborted'])
    await crash()
    expect([await status(committed), await status(rolledBack)]).toEqual([null, 'aborted'])
  }
  await database.drop()
})

describe('which server this is', () => {
  const identity = async (database: TestDatabase): Promise<string> =>
    (await database.query<{ server: string }>(`select ${serverIdentity('twinbox')} as server`))[0]!.server

  test('stays the same when statistics are reset, and not when a process crashes or the server starts again', async () => {
    const database = await createLastingDatabase(server.url)
    const seen = [await identity(database)]
    await resetStatistics(database)
    expect(await identity(database)).toBe(seen[0])

    await crashBackend(database)
    seen.push(await identity(database))
    await server.kill('SIGQUIT')
    await server.start()
    seen.push(await identity(database))
    expect(new Set(seen).size).toBe(3)
    // Many ask at once just after the crash: they agree.
    await crashBackend(database)
    const clients = await Promise.all(Array.from({ length: 8 }, () => identity(database)))
    expect(new Set(clients).size).toBe(1)
    await database.drop()
  })

  test('handlers go on under a reset of statistics, and each is called once', async () => {
    const database = await createLastingDatabase(server.url)
    await database.query(`insert into twinbox.inbox (consumer, id, topic, payload, lane, published_at)
      select 'c', gen_random_uuid(), 't', '1', n, now() from generate_series(0, 19) as n`)
    const calls: string[] = []
    const events: TwinboxEvent[] = []
    let finish = (): void => {}
    const finished = new Promise<void>((resolve) => (finish = resolve))
    await using claimer = createClaimer(
      {
        database: database.url,
        consumer: 'c',
        concurrency: 20,
        heartbeatMs: 100,
        deadAfterMs: 1000,
        onEvent: (event) => void events.push(event),
      },
      {
        t: {
          transaction: false,
          handle: async ({ id }) => {
            calls.push(id)
            await finished
          },
        },
      },
    )
    await claimer.start()
    await expect.poll(() => calls.length).toBe(20)
    await resetStatistics(database)
    // Several heartbeats later, each of which looks at which server it is.
    const beat = (): Promise<unknown[]> =>
      database.query('select beat_at from twinbox.worker where ended_at is null')
    for (let round = 0; round < 5; round++) {
      const [before] = await beat()
      await expect.poll(async () => (await beat())[0]).not.toEqual(before)
    }
    finish()
    await expect.poll(() => database.query('select id from twinbox.inbox')).toEqual([])
    expect(calls).toHaveLength(20)
    expect(events.filter(({ type }) => type === 'lease_lost')).toEqual([])
    await claimer.stop()
    await database.drop()
  })
})
