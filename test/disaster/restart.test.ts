import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { currentXid, transactionStatus } from '../../src/database/sql/server.ts'
import { Stage } from '../crash/stage.ts'
import { createLastingDatabase, startServer } from '../support/replication.ts'
import { aliveSince, publishThroughout } from './load.ts'

/** Postgres stops without a goodbye, and comes back. */
let server: Awaited<ReturnType<typeof startServer>>
let stage: Stage | undefined
beforeAll(async () => {
  server = await startServer()
})
afterEach(() => stage?.close())
afterAll(() => server.stop())

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
    (await database.query<{ status: string | null }>(transactionStatus, [id]))[0]!.status
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
    async () => {
      const client = await database.pool.connect()
      const gone = new Promise<void>((resolve) => client.once('end', resolve))
      const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
      process.kill(rows[0]!.pid, 'SIGKILL')
      await gone
      client.release(true)
    },
  ]
  for (const crash of crashes) {
    const [committed, rolledBack] = [await transaction('commit'), await transaction('rollback')]
    expect([await status(committed), await status(rolledBack)]).toEqual(['committed', 'aborted'])
    await crash()
    expect([await status(committed), await status(rolledBack)]).toEqual([null, 'aborted'])
  }
  await database.drop()
})
