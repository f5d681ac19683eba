import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { receive } from '../../src/database/inbox.ts'
import { Database } from '../../src/database/database.ts'
import {
  createClaimer,
  createOutbox,
  createRelay,
  migrate,
  withTransaction,
  type Broker,
  type Worker,
} from '../../src/index.ts'
import { startServer } from '../support/replication.ts'
import { untilDone } from '../support/until.ts'
import { inboxMessage } from '../support/messages.ts'

/**
 * A crash takes back what was committed and not yet written to disk. That is nothing that a user was told is done, but
 * the workers saw it: what they deleted is there again, and numbers that they have seen are given out a second time.
 */
let server: Awaited<ReturnType<typeof startServer>>
let database: Database
let worker: Worker | undefined
beforeAll(async () => {
  // So that what does not wait for the disk does not get there by itself.
  server = await startServer([
    'wal_writer_delay=10s',
    'wal_writer_flush_after=1GB',
    'bgwriter_lru_maxpages=0',
    'autovacuum=off',
    'checkpoint_timeout=1h',
  ])
})
beforeEach(async () => {
  database = new Database(server.url)
  await migrate(database)
})
afterEach(async () => {
  await worker?.stop()
  worker = undefined
  await database.pool.query('drop schema twinbox cascade')
  await database.close()
})
afterAll(() => server.stop())

const count = 300
const sent: string[] = []
const broker: Broker = {
  name: 'confirming',
  send: async (batch) => {
    sent.push(...batch.map(({ id }) => id))
    return batch.map(() => ({ status: 'sent' }))
  },
  subscribe: async () => ({ stop: async () => {} }),
  close: async () => {},
}

const until = (query: string): Promise<void> => untilDone(database.pool, query)

async function publish(durable: boolean): Promise<string[]> {
  return withTransaction(database, async (client) => {
    if (!durable) await client.query('set local synchronous_commit = off')
    const messages = Array.from({ length: count }, (_, n) => ({ topic: 't', key: `k${n}`, payload: n }))
    return (await createOutbox().publishMany(client, messages)).map(({ id }) => id)
  })
}

async function crash(): Promise<void> {
  await server.kill('SIGQUIT')
  await server.start()
}

/** It takes its lanes with a commit that waits for the disk, and would take along what comes before it. */
async function start(starting: Worker): Promise<void> {
  worker = starting
  await worker.start()
  await until('select bool_and(holder is not null) as done from twinbox.lane')
}

/** Nothing is there any more, and its worker knows that so well that it has written it down. */
const worked = (table: string, consumer: string): Promise<void> =>
  until(`select not exists (select from twinbox.${table}) and min(watermark) > 0 as done
    from twinbox.lane where consumer = '${consumer}' and lane < 64`)

test('a relay finds what it had sent and deleted, and is to delete again', async () => {
  await start(createRelay({ database: server.url, broker }))
  // It is all there again, or this would be no test. A commit of upkeep that waits for the disk may take the deletions
  // along: then they outlive the crash, and it is tried once more.
  let published: string[] = []
  for (let tries = 0; tries < 5 && sent.length < 2 * count; tries++) {
    sent.length = 0
    published = await publish(true)
    await worked('outbox', '')
    await crash()
    await until('select not exists (select from twinbox.outbox) as done')
  }
  expect(sent).toHaveLength(2 * count)
  expect(new Set(sent)).toEqual(new Set(published))
})

test('a relay sends messages whose numbers it has seen before on others', async () => {
  await start(createRelay({ database: server.url, broker }))
  const drawn = async (): Promise<number> =>
    (await database.pool.query<{ n: number }>('select last_value::int as n from twinbox.outbox_seq_seq'))
      .rows[0]!.n
  await publish(false)
  await worked('outbox', '')
  await crash()
  // They are gone, and so is the memory of their numbers, or this would be no test.
  expect(await drawn()).toBeLessThan(count)
  const published = await publish(true)
  await until('select not exists (select from twinbox.outbox) as done')
  expect(sent).toEqual(expect.arrayContaining(published))
})

const handled: string[] = []

async function startClaimer(): Promise<void> {
  handled.length = 0
  await database.pool.query('delete from twinbox.lane')
  await start(
    createClaimer(
      { database: server.url, consumer: 'c' },
      { t: { transaction: false, handle: ({ id }) => handled.push(id) } },
    ),
  )
}

const receiveSome = (): Promise<unknown> =>
  receive(
    database,
    Array.from({ length: count }, (_, n) =>
      inboxMessage({ key: n % 2 === 0 ? `k${n}` : null, payload: String(n) }),
    ),
  )

test('a claimer finds what it had completed, and is to complete again', async () => {
  await startClaimer()
  await receiveSome()
  await worked('inbox', 'c')
  await crash()
  await until('select not exists (select from twinbox.inbox) as done')
  await expect.poll(() => handled.length, { timeout: 30_000 }).toBe(2 * count)
  expect(new Set(handled).size).toBe(count)
})

/**
 * Lets no worker beat that is registered, also after a crash: a lock would be gone with it, and the worker may be there
 * again before whoever locks.
 */
const holdHeartbeats = (): Promise<unknown> =>
  database.pool.query(`
    create table twinbox.gate (closed boolean);
    insert into twinbox.gate values (true);
    create function twinbox.wait_at_gate() returns trigger language plpgsql as $$
      begin
        while exists (select from twinbox.gate) loop perform pg_sleep(0.01); end loop;
        return new;
      end $$;
    create trigger gate before update on twinbox.worker for each row execute function twinbox.wait_at_gate()`)

/** By what its statement begins with, a worker has looked for messages since the first of a table came in. */
const looked = (statement: string, since: string): Promise<void> =>
  until(`select exists (select from pg_stat_activity
    where query like 'with ${statement} as materialized%' and query_start > (select ${since})) as done`)

test('a claimer that does not know yet of a crash handles nothing in vain', async () => {
  await startClaimer()
  await holdHeartbeats()
  await crash()
  await receiveSome()
  const since = 'min(received_at) from twinbox.inbox'
  for (const claim of ['there', 'locked']) await looked(claim, since)
  await database.pool.query('truncate twinbox.gate')
  await until('select not exists (select from twinbox.inbox) as done')
  expect(handled).toHaveLength(count)
})

test('nor does a relay send anything in vain', async () => {
  sent.length = 0
  await start(createRelay({ database: server.url, broker }))
  await holdHeartbeats()
  await crash()
  await publish(true)
  await looked('there', 'min(published_at) from twinbox.outbox')
  await database.pool.query('truncate twinbox.gate')
  await until('select not exists (select from twinbox.outbox) as done')
  expect(sent).toHaveLength(count)
})
