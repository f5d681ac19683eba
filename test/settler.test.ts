import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Database } from '../src/database/database.ts'
import { receive } from '../src/database/inbox.ts'
import { claimLost, completionSql } from '../src/database/sql/completion.ts'
import { workerSql } from '../src/database/sql/worker.ts'
import { Settler } from '../src/lanes/settler.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { inboxMessage } from './support/messages.ts'

let tables: TestDatabase
let database: Database
let server: string
beforeAll(async () => {
  tables = await createTestDatabase()
  database = new Database(tables.url)
  const [seen] = await database.query(workerSql('twinbox').look)
  server = seen!.server
})
beforeEach(() => tables.query('truncate twinbox.inbox, twinbox.seen, twinbox.handled'))
afterAll(async () => {
  await database.close()
  await tables.drop()
})

interface Row {
  readonly lane: number
  readonly seq: number
  readonly id: string
  readonly fence: number
}

/** Messages with and without a key, as they are held. */
async function hold(): Promise<Row[]> {
  const messages = ['k1', 'k2', null, null].map((key) => inboxMessage({ key }))
  await receive(database, messages)
  return tables.query<Row>(
    `select i.lane::int, i.seq::int, i.id::text, coalesce(l.fence, i.fence)::int as fence
    from twinbox.inbox as i left join twinbox.lane as l on l.consumer = i.consumer and l.lane = i.lane`,
  )
}

const left = async (): Promise<string[]> =>
  (await tables.query<{ id: string }>('select id::text from twinbox.inbox')).map(({ id }) => id)

describe.each([
  ['', null],
  [' and keeps a history', 7],
])('completing%s', (_, worker) => {
  beforeAll(() =>
    tables.query(
      `insert into twinbox.lane (consumer, lane, fence) select 'c', lane, 1 from generate_series(0, 63) as lane on conflict do nothing`,
    ),
  )

  test('ends what was claimed on this server', async () => {
    const held = (await hold()).map((row) => ({ ...row, attempt: 1, server }))
    expect(await new Settler(database, 'c').complete(held, worker)).toEqual(held)
    expect(await left()).toEqual([])
  })

  // It was restored from a dump: what the handler has written has gone with the one on which it was claimed.
  test('ends nothing that was claimed on another one, whatever its fence', async () => {
    const rows = await hold()
    const held = rows.map((row, n) => ({ ...row, attempt: 1, server: n % 2 === 0 ? 'another' : server }))
    const ours = held.filter((each) => each.server === server)
    expect(await new Settler(database, 'c').complete(held, worker)).toEqual(ours)
    expect(new Set(await left())).toEqual(new Set(rows.filter((_row, n) => n % 2 === 0).map(({ id }) => id)))
  })

  /** By one message, and by several. */
  const completing = async (named: string): Promise<readonly string[]> => {
    const held = (await hold()).map((row) => ({ ...row, attempt: 1 }))
    const { completeAndCommit } = completionSql('twinbox')
    return [held.slice(0, 1), held.slice(1)].map((claims) => completeAndCommit('c', claims, worker, named))
  }

  test("ends in a handler's transaction what was claimed on this server", async () => {
    // It has crashed and come back since, and no transaction of a handler was undone by that.
    for (const named of [server, `${server.split(' ').slice(0, 2).join(' ')} later`]) {
      for (const text of await completing(named)) await tables.query(text)
      expect(await left()).toEqual([])
    }
  })

  // A younger one gives the same fences out again, and may have an earlier message of the key that was done elsewhere.
  test.each([
    ['of another start', (start: string, inbox: string) => `1${start} ${inbox} mark`],
    ['of a start that begins alike', (start: string, inbox: string) => `${start.slice(0, -1)} ${inbox} mark`],
    ['whose tables were restored in place', (start: string, inbox: string) => `${start} 1${inbox} mark`],
    ['that nobody has named', () => ''],
  ])("ends nothing in a handler's transaction of a server %s", async (_name, called) => {
    const [start, inbox] = server.split(' ') as [string, string]
    for (const text of await completing(called(start, inbox)))
      await expect(tables.query(text)).rejects.toMatchObject({ code: claimLost })
    expect(await left()).toHaveLength(4)
  })
})
