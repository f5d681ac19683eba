import { afterEach, beforeEach, expect, test } from 'vitest'
import { copyRows } from '../../proof/soak/dump.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { Database } from '../../src/database/database.ts'
import { migrate } from '../../src/database/migrate.ts'
import { withTransaction } from '../../src/database/transaction.ts'
import type { FailpointName } from '../../src/base/failpoint.ts'
import type { Worker } from '../../src/membership/worker.ts'
import { createOutbox } from '../../src/outbox/outbox.ts'
import { createReceiver } from '../../src/receiver/receiver.ts'
import { createRelay } from '../../src/relay/relay.ts'
import { startServer } from '../support/replication.ts'
import { untilDone } from '../support/until.ts'

/**
 * A dump that was made while workers ran is restored into a younger cluster, which takes the place of the old one under the feet
 * of the workers: they remember what it has never seen. What was committed after the dump is gone, and nothing else.
 */
let server: Awaited<ReturnType<typeof startServer>>
let database: Database
let workers: Worker[]
beforeEach(async () => {
  server = await startServer()
  database = new Database(server.url)
  await migrate(database)
  workers = []
})
afterEach(async () => {
  await Promise.all(workers.map((worker) => worker.stop()))
  await database.close()
  await server.stop()
})

const start = async (worker: Worker): Promise<void> => {
  workers.push(worker)
  await worker.start()
}

/** Restores what is there now, after that has happened. */
async function restore(meanwhile: () => Promise<void>): Promise<void> {
  await server.renew(async (url) => {
    const young = new Database(url)
    await migrate(young)
    await copyRows(database, young)
    await young.close()
    await meanwhile()
  })
}

const until = (query: string): Promise<void> => untilDone(database.pool, query)

const count = 200
const publish = (): Promise<string[]> =>
  withTransaction(database, async (client) => {
    const messages = Array.from({ length: count }, (_, n) => ({
      topic: 't',
      key: n % 3 === 0 ? null : `k${n % 7}`,
      payload: n,
    }))
    return (await createOutbox().publishMany(client, messages)).map(({ id }) => id)
  })

interface Gate {
  /** Resolves when somebody stands at it. */
  readonly reached: Promise<void>
  /** Whoever stands at it may go on. */
  readonly open: () => void
  readonly pass: () => Promise<void>
}

function gate(): Gate {
  let open = (): void => {}
  let reach = (): void => {}
  const opened = new Promise<void>((resolve) => (open = resolve))
  const reached = new Promise<void>((resolve) => (reach = resolve))
  const pass = (): Promise<void> => {
    reach()
    return opened
  }
  return { reached, open, pass }
}

/** Stops a worker at these points of its work until it may go on. */
const gates =
  (at: Partial<Record<FailpointName, Gate>>) =>
  (point: FailpointName): Promise<void> | void =>
    at[point]?.pass()

const lanesHeld = (consumer: string): Promise<void> =>
  until(
    `select bool_and(holder is not null) and count(*) >= 64 as done from twinbox.lane where consumer = '${consumer}'`,
  )
const isEmpty = (table: string): Promise<void> =>
  until(`select not exists (select from twinbox.${table}) as done`)

// On both servers the lanes are taken for the first time since the dump, and so under the same fences.
test('what a relay had sent to the inbox of the old server is sent again on the new one', async () => {
  const broker = postgres({ database: server.url })
  await start(createReceiver({ database: server.url, broker, consumer: 'c', topics: ['t'] }))
  const published = await publish()
  const deleting = gate()
  await restore(async () => {
    await start(createRelay({ database: server.url, broker }, gates({ 'relay.before_delete': deleting })))
    await deleting.reached
  })
  await lanesHeld('')
  deleting.open()
  await isEmpty('outbox')
  const { rows } = await database.pool.query<{ id: string }>('select id from twinbox.inbox')
  expect(new Set(rows.map(({ id }) => id))).toEqual(new Set(published))
  await broker.close()
})
