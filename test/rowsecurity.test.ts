import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import {
  applyRoles,
  createOutbox,
  createRelay,
  diagnose,
  migrate,
  readStatus,
  type Broker,
  type OutgoingMessage,
} from '../src/index.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
/** Roles are the server's. */
const schema = `rls_${process.pid}_${Date.now() % 1_000_000}`
const worker = `${schema}_worker`
let asWorker: string
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
  await migrate(database.url, { schema })
  await applyRoles(database.url, { schema })
  await database.query(`create role ${worker} login password 'worker'`)
  for (const role of ['relay', 'reader']) await database.query(`grant ${schema}_${role} to ${worker}`)
  asWorker = Object.assign(new URL(database.url), { username: worker, password: 'worker' }).toString()
})
const tables = ['lane', 'outbox', 'worker', 'migration', 'inbox']
afterEach(async () => {
  for (const table of tables) {
    await database.query(`alter table ${schema}.${table} disable row level security`)
    await database.query(`alter table ${schema}.${table} no force row level security`)
    await database.query(`drop policy if exists all_in on ${schema}.${table}`)
    await database.query(`drop policy if exists all_out on ${schema}.${table}`)
  }
  await database.query(`alter role ${worker} nobypassrls`)
})
afterAll(async () => {
  await database.query(`drop schema ${schema} cascade`)
  const roles = ['publisher', 'canceller', 'relay', 'receiver', 'claimer', 'operator', 'reader', 'worker']
  for (const role of roles) await database.query(`drop role if exists ${schema}_${role}`)
  await database.drop()
})

const enable = (table: string): Promise<unknown> =>
  database.query(`alter table ${schema}.${table} enable row level security`)

/** Publishes one message and has it sent by a relay of this user. */
async function relayed(url: string): Promise<void> {
  let resolve = (): void => {}
  const promise = new Promise<void>((done) => (resolve = done))
  const sent = (batch: readonly OutgoingMessage[]): void => {
    if (batch.length > 0) resolve()
  }
  const broker: Broker = {
    name: 'own',
    send: async (batch) => (sent(batch), batch.map(() => ({ status: 'sent' }))),
    subscribe: async () => ({ stop: async () => {} }),
    close: async () => {},
  }
  await using relay = createRelay({ database: url, schema, broker })
  await relay.start()
  await database.transaction((client) => createOutbox({ schema }).publish(client, { topic: 't', payload: 1 }))
  await promise
}
const refused = (...names: string[]): object => ({
  name: 'SchemaError',
  code: 'ROW_SECURITY',
  message: expect.stringContaining(names.map((table) => `"${schema}".${table}`).join(', ')) as string,
})
const findings = async (url: string): Promise<string[]> =>
  (await diagnose(url, { schema })).filter(({ level }) => level === 'wrong').map(({ found }) => found)

describe('row-level security that hides rows', () => {
  test.each(['lane', 'migration'])('of %s is refused at start, and named by the doctor', async (table) => {
    await enable(table)
    await expect(relayed(asWorker)).rejects.toMatchObject(refused(table))
    for (const url of [asWorker, database.url]) {
      expect((await findings(url)).filter((found) => found.includes('Row-level security'))).toEqual([
        expect.stringMatching(`\\b${table}\\b`),
      ])
    }
    await expect(readStatus(asWorker, { schema })).rejects.toMatchObject(refused(table))
  })

  test('is never taken for a database without migrations', async () => {
    await enable('migration')
    await expect(migrate(asWorker, { schema })).rejects.toMatchObject(refused('migration'))
    await database.query(`alter table ${schema}.migration force row level security`)
    // A superuser is let through all the same; others that own it are not.
    expect(await migrate(database.url, { schema })).toEqual([])
  })

  test.each([
    ['for select using (true)', false],
    ['for all using (true)', true],
    ['for all to public using (true) with check (true)', true],
    ['for all to ROLE using (true)', true],
    ['for all to pg_monitor using (true)', false],
    ['for all using (lane < 10)', false],
    ['for all using (true) with check (lane < 10)', false],
    ['for update using (true)', false],
  ])('is a matter of what the policy lets through: %s', async (policy, passes) => {
    await enable('outbox')
    await database.query(
      `create policy all_in on ${schema}.outbox ${policy.replace('ROLE', `${schema}_relay`)}`,
    )
    if (passes) await relayed(asWorker)
    else await expect(relayed(asWorker)).rejects.toMatchObject(refused('outbox'))
  })

  test('is so if one policy restricts what another one lets through', async () => {
    await enable('outbox')
    await database.query(`create policy all_in on ${schema}.outbox for all using (true)`)
    await relayed(asWorker)
    await database.query(
      `create policy all_out on ${schema}.outbox as restrictive for delete using (lane < 10)`,
    )
    await expect(relayed(asWorker)).rejects.toMatchObject(refused('outbox'))
  })
})

test('row-level security that hides nothing from whoever works is worth a note', async () => {
  // The relay has no rights on the inbox; whom a role bypasses, it bypasses.
  await enable('inbox')
  await database.query(`revoke ${schema}_reader from ${worker}`)
  await relayed(asWorker)
  await database.query(`grant ${schema}_reader to ${worker}`)
  await enable('outbox')
  await database.query(`alter role ${worker} bypassrls`)
  await relayed(asWorker)
  await relayed(database.url)
  const notes = (await diagnose(database.url, { schema })).filter(({ check }) => check === 'row security')
  expect(notes).toMatchObject([{ level: 'note', found: expect.stringContaining('inbox, outbox') as string }])
})
