import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { checkServer } from '../../src/database/server.ts'
import { Stage } from '../crash/stage.ts'
import { createLastingDatabase, startReplication, type Replication } from '../support/replication.ts'
import { aliveSince, publishThroughout } from './load.ts'

/** The primary dies, and the standby takes its place. */
let replication: Replication
let stage: Stage | undefined
beforeAll(async () => {
  replication = await startReplication()
})
afterEach(() => stage?.close())
afterAll(() => replication.stop())

test('a standby is passed over for the primary, wherever it stands in the list', async () => {
  const { primary, standby, both } = replication.urls
  const database = new Database(both)
  await checkServer(database)
  const session = await database.openSession()
  expect(`:${session.port}`).toBe(`:${new URL(primary).port}`)
  await session.end()
  await database.close()
  const alone = new Database(standby)
  await expect(checkServer(alone)).rejects.toMatchObject({ code: 'SERVER_UNSUPPORTED' })
  await alone.close()
})

test('everybody resumes by itself, and nothing that was committed is lost, doubled or out of order', async () => {
  const database = await createLastingDatabase(replication.urls.both)
  const staged = (stage = await Stage.open({ kind: 'postgres' }, { database }))
  const receiver = staged.start({ role: 'receiver' })
  await receiver.started
  const relays = [1, 2].map(() => staged.start({ role: 'relay' }))
  const claimers = [1, 2].map(() => staged.start({ role: 'claimer', handleMs: 2 }))
  const workers = [receiver, ...relays, ...claimers]
  await Promise.all(workers.map(({ started }) => started))

  const load = publishThroughout(staged, 3)
  await staged.until('select count(*) > 100 as done from effects')

  await replication.killPrimary()
  await replication.promote()
  const [{ promoted, handled }] = (await database.query(
    `select clock_timestamp()::text as promoted, count(*)::int as handled from effects`,
  )) as [{ promoted: string; handled: number }]
  await staged.until(`select count(*) > ${handled + 200} as done from effects`)
  await staged.until(aliveSince(workers.length, `'${promoted}'`))
  await load.stop()
  await staged.drained()

  expect(await staged.faults()).toEqual([])
  expect(load.refused()).toBeGreaterThan(0)
  for (const worker of workers) expect(await worker.end()).toBe(0)
})
