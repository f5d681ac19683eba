import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { lend, takeBack } from '../src/database/loan.ts'
import { controlIn } from '../src/database/sql/control.ts'
import { bind, withTransaction } from '../src/index.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** What a lent client refuses; what the libraries make of it is tried with them, in `test/libraries`. */

let database: TestDatabase
let client: pg.Client
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
  client = new pg.Client(database.url)
  await client.connect()
})
afterAll(async () => {
  await client.end()
  await database.drop()
})

test.each([
  ['begin', 'begin'],
  ['START  TRANSACTION isolation level serializable', 'begin'],
  ['commit', 'end'],
  ['/* a */ -- b\n COMMIT;', 'end'],
  ['end', 'end'],
  ['abort', 'end'],
  ['rollback', 'end'],
  ['rollback work', 'end'],
  ["prepare transaction 'x'", 'end'],
  ["select 'a''b'; commit", 'end'],
  [String.raw`select E'it\'s'; commit`, 'end'],
  ['select $body$ x $body$; rollback', 'end'],
  ['rollback/**/;', 'end'],
  ['begin; commit', 'end'],
  ['rollback to savepoint a', null],
  ['ROLLBACK TRANSACTION TO a', null],
  ['savepoint a; release savepoint a', null],
  ["insert into t values ('x; commit')", null],
  [String.raw`insert into t values (E'it\'s; commit')`, null],
  ['insert into t values ($$x; commit$$), ($a$; end$a$)', null],
  ['select 1 as "; commit"', null],
  ['select 1 -- ; commit', null],
  ['select case when true then 1 end', null],
  ['create function f() returns int begin atomic select 1; end', null],
  ['select commit from t', null],
  ['prepare plan as select 1', null],
])('%s: %s', (text, control) => {
  expect(controlIn(text)).toBe(control)
})

test('text that is never closed is read in one go', () => {
  for (const open of ["'", '"', '/*', '$a$', "e'\\"])
    expect(controlIn(open.repeat(100_000) + 'end')).toBe(null)
})

test('it is refused in the way in which it was asked: by a promise, a callback, or what runs by itself', async () => {
  await client.query('begin')
  const { client: lent } = lend(client)
  const owned = expect.objectContaining({ code: 'TRANSACTION_OWNED' }) as unknown
  await expect(lent.query('commit')).rejects.toEqual(owned)
  await expect(lent.query({ text: 'commit' })).rejects.toEqual(owned)
  const told = (ask: (done: (error: Error | null) => void) => void): Promise<Error | null> => new Promise(ask)
  expect(await told((done) => (lent.query as (...all: unknown[]) => void)('commit', done))).toEqual(owned)
  expect(await told((done) => lent.query('commit', [], done))).toEqual(owned)
  expect(await told((done) => void lent.query({ text: 'commit', callback: done } as pg.QueryConfig))).toEqual(
    owned,
  )
  expect(await told((done) => void lent.query(new pg.Query({ text: 'commit' }, done as never)))).toEqual(
    owned,
  )
  await expect((lent as pg.Client).end()).rejects.toEqual(owned)
  expect(() => (lent as pg.PoolClient).release()).toThrow(owned)
  // What the borrower writes down is kept apart, and what it asks is the client's.
  Object.assign(lent, { mark: 1 })
  expect('mark' in client).toBe(false)
  expect((lent as { mark?: number }).mark).toBe(1)
  expect('mark' in lent).toBe(true)
  expect((lent as unknown as { processID: number }).processID).toBe(
    (client as unknown as { processID: number }).processID,
  )
  expect(takeBack(client)).toEqual(owned)
  expect(takeBack(client)).toBe(null)
  await expect(lent.query('select 1')).rejects.toMatchObject({ code: 'TRANSACTION_ENDED' })
  await client.query('rollback')
})

test('without a loan that was taken back, what is in no transaction any more is refused as well', async () => {
  await client.query('begin')
  const { client: lent } = lend(client, { begins: true })
  expect(await lent.query('BEGIN;')).toMatchObject({ command: 'BEGIN', rows: [] })
  await expect(lent.query('BEGIN;')).rejects.toMatchObject({ code: 'TRANSACTION_OWNED' })
  await client.query('rollback')
  await expect(lent.query('select 1')).rejects.toMatchObject({ code: 'TRANSACTION_ENDED' })
})

test('what was refused in a transaction of somebody else is not held against the next one on the client', async () => {
  const pool = new pg.Pool({ connectionString: database.url, max: 1 })
  const first = await pool.connect()
  await first.query('begin')
  await expect(lend(first).client.query('commit')).rejects.toMatchObject({ code: 'TRANSACTION_OWNED' })
  await first.query('rollback')
  first.release()
  expect(await withTransaction(pool, async (next) => next === first)).toBe(true)
  await pool.end()
})

test('what cannot be bound is refused by its name, and what looks otherwise than what is known', async () => {
  await client.query('begin')
  const nothing = (): void => {}
  const refused: [given: object, says: RegExp][] = [
    [{}, /no data library known here/],
    [{ $queryRawUnsafe: nothing, $executeRawUnsafe: nothing }, /a Prisma client, .*inTransaction/],
    [Object.assign(nothing, { unsafe: nothing, begin: nothing }), /a postgres.js sql, .*inTransaction/],
    [
      { createQueryRunner: () => ({ isTransactionActive: false }), getRepository: nothing },
      /version of TypeORM/,
    ],
    [{ getQueryInterface: nothing, transaction: nothing }, /version of Sequelize/],
    [
      {
        ...{ getTransactionContext: nothing, setTransactionContext: nothing },
        fork: () => ({}),
        getConnection: () => ({}),
      },
      /version of MikroORM/,
    ],
    [
      { raw: nothing, transaction: nothing, client: { transacting: true } },
      /a Knex transaction. Pass the instance/,
    ],
    [{ raw: nothing, transaction: async () => ({}), client: {} }, /version of Knex/],
  ]
  for (const [given, says] of refused) await expect(bind(client, given)).rejects.toThrow(says)
  await expect(bind(client, undefined as never)).rejects.toMatchObject({ code: 'INVALID_OPTION' })
  await expect(client.query('select 1 / 0')).rejects.toThrow('division')
  // The error comes first, and then what the state of the transaction is.
  await expect.poll(() => client.getTransactionStatus()).toBe('E')
  await expect(bind(client, {})).rejects.toMatchObject({ code: 'TRANSACTION_ABORTED' })
  await client.query('rollback')
})
