import { execFile } from 'node:child_process'
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createOutbox, type Message, type TransactionContext } from '../../src/index.ts'
import { createTestSchema, pglite, type PGliteLike, type TestSchema } from '../../src/testing/testing.ts'
import { describeWith } from '../support/require.ts'
import { libraries } from '../support/servers/libraries.ts'
import { compiled, shared } from '../support/shared.ts'
import { programs } from './programs.ts'

type Client = { readonly client: TransactionContext<unknown>['client'] }
type PGlite = PGliteLike & {
  exec(text: string): Promise<unknown>
  query(text: string): Promise<{ readonly rows: unknown[] }>
  transaction(work: (tx: never) => Promise<unknown>): Promise<unknown>
  close(): Promise<void>
}

describeWith('libraries', await shared(libraries), 'on PGlite, without a server', ({ newest }) => {
  let db: PGlite
  let kit: TestSchema
  beforeAll(async () => {
    const { load } = (await import(pathToFileURL(newest).href)) as {
      load(this: void, name: string): Promise<{ PGlite: new () => PGlite }>
    }
    const { PGlite } = await load('@electric-sql/pglite')
    db = new PGlite()
    await db.exec('create table effects (what text)')
    kit = await createTestSchema({ database: pglite(db) })
  })
  afterAll(async () => {
    await kit?.close()
    await db?.close()
  })

  test('all of the kit works', async () => {
    const outbox = createOutbox({ schema: kit.schema })
    await db.transaction(async (tx) => {
      await outbox.publish(tx, { topic: 'a', payload: { n: 1 } })
      await outbox.publish(tx, { topic: 'a', payload: { n: 2 }, delayMs: 60_000, dedupeKey: 'd' })
      expect(await kit.published(tx)).toMatchObject([{ payload: { n: 1 } }, { payload: { n: 2 } }])
    })
    const write = async ({ id }: Message, { client }: Client): Promise<void> => {
      await client.query('insert into effects values ($1)', [id])
      await outbox.publish(client, { topic: 'b', payload: id })
    }
    const handled = await kit.handle({ a: write }, { topic: 'a', payload: 1 })
    expect(handled).toMatchObject({ outcome: 'completed', published: [{ topic: 'b' }] })
    expect((await db.query('select * from effects')).rows).toEqual([])
    const how = { consumers: { c: { handlers: { a: write, b: () => {} } } }, timeoutMs: 60_000 }
    expect(await kit.settle(how)).toMatchObject({ sent: 2, handled: 2, left: { delayed: [{ count: 1 }] } })
    await kit.advance(60_000)
    expect(await kit.settle(how)).toMatchObject({ sent: 2, handled: 2, left: { delayed: [] } })
    expect((await db.query('select * from effects')).rows).toHaveLength(2)
    await kit.reset()
  })

  test('connections of pg take turns, and one that is gone leaves nothing open', async () => {
    const pool = new pg.Pool(pglite(db))
    const one = await pool.connect()
    await one.query('begin')
    await one.query(`insert into effects values ('gone')`)
    const other = pool.query(`select count(*)::int as count from effects where what = 'gone'`)
    const inside = db.query('select 1 as one')
    // The first has the session, and neither of these two sees what it has not committed.
    one.release(true)
    expect((await other).rows).toEqual([{ count: 0 }])
    expect((await inside).rows).toEqual([{ one: 1 }])
    await expect(pool.query('select 1/0')).rejects.toMatchObject({ code: '22012' })
    const bytes = Buffer.alloc(300_000, 7)
    expect((await pool.query('select $1::bytea as bytes', [bytes])).rows).toEqual([{ bytes }])
    await pool.end()
    expect(() => pglite({} as never)).toThrow('pglite takes a PGlite')
  })

  test('whoever waits for itself is told so', async () => {
    const pool = new pg.Pool(pglite(db, { turnMs: 500 }))
    const waits = async (_: Message, { client }: Client): Promise<void> => {
      await client.query('select 1')
      await pool.query('select 1')
    }
    const result = await kit.handle({ a: waits }, { topic: 'a', payload: 1 })
    expect(result).toMatchObject({ outcome: 'retry' })
    expect(String((result as { error: unknown }).error)).toContain('A PGlite has one session')
    // Its turn comes, and is passed on.
    expect((await db.query('select 1 as one')).rows).toEqual([{ one: 1 }])
    await pool.end()
  })

  test('the program of docs/testing.md', async () => {
    await compiled('dist')
    // Inside the package its own name resolves as it does for a user, through the exports.
    const folder = resolve(`.build/pglite-${process.pid}`)
    const link = join(folder, 'node_modules/@electric-sql/pglite')
    await mkdir(dirname(link), { recursive: true })
    try {
      await symlink(join(dirname(newest), '../@electric-sql/pglite'), link)
      await writeFile(join(folder, 'orders.js'), programs[0]!.code)
      await writeFile(join(folder, 'program.js'), programs.at(-1)!.code)
      const { stdout } = await promisify(execFile)(process.execPath, ['program.js'], { cwd: folder })
      expect(stdout).toMatch(/topic: 'order.placed'[^]*outcome: 'completed'[^]*sent: 2,\s+handled: 1/)
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })
})
