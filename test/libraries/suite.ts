import { createRequire } from 'node:module'
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import {
  applyRoles,
  createClaimer,
  createOutbox,
  inTransaction,
  type TransactionInput,
} from '../../src/index.ts'
import { recordEvents } from '../support/events.ts'
import { inboxMessage } from '../support/messages.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { describeWith } from '../support/require.ts'
import { libraries as installed } from '../support/servers/libraries.ts'
import { shared } from '../support/shared.ts'
import { boundChecks } from './bound.ts'
import { libraries, loadFrom, type Library, type Load, type Opened } from './libraries.ts'

/** A database with the tables, and a table `things`. */
interface Publisher {
  readonly database: TestDatabase
  /** Of a user who may do no more there than publish and cancel. */
  readonly url: string
}

const found = await shared(installed)
const outbox = createOutbox()

/** What a driver or a library may have ideas of its own about: JSON, texts like numbers and dates, quotes, question marks. */
const payload = {
  n: 1.0,
  big: '12345678901234567890',
  quoted: `it's "$1" ?? \\ {}`,
  at: '2026-01-01',
  list: [[], {}, null],
}
const headers = { trace: 'a?b:c', $2: '"' }
const bytes = Uint8Array.of(0, 1, 2, 0xff, 0x5c, 0x27)

interface Stored {
  readonly topic: string
  readonly key: string | null
  readonly kind: string | null
  readonly payload: string | null
  readonly headers: string | null
  readonly body: string | null
}

/**
 * Publishing in the transactions of all libraries of one set, each through the real library, logged in as somebody who may
 * do no more than publish.
 */
export function suiteOf(set: 'newest' | 'oldest'): void {
  describeWith('libraries', found, `publishing in the transaction of the ${set}`, (loaders) => {
    const versionOf = (name: string): string =>
      (createRequire(loaders[set])(`${loaders[set]}/../../${name}/package.json`) as { version: string })
        .version
    const load = loadFrom(loaders[set])
    let publisher: Publisher
    const role = `twinbox_test_${randomBytes(4).toString('hex')}`
    beforeAll(async () => {
      const database = await createTestDatabase()
      await applyRoles(database.url)
      await database.query(`create role ${role} login password 'secret'; grant twinbox_publisher, twinbox_canceller to ${role};
        create table things (name text); grant all on things to ${role}`)
      const url = Object.assign(new URL(database.url), { username: role, password: 'secret' }).toString()
      publisher = { database, url }
    })
    afterAll(async () => {
      const { database } = publisher
      await database.query(`drop owned by ${role}; drop role ${role}`)
      await database.drop()
    })
    for (const library of libraries) {
      const node = set === 'newest' ? (library.node ?? 0) : 0
      const lacksNode = Number(process.versions.node.split('.')[0]) < node
      const needs = lacksNode ? `, which needs Node ${node}` : ''
      describe.skipIf(lacksNode)(`${library.name}, version ${versionOf(library.package)}${needs}`, () => {
        checks(library, load, () => publisher)
      })
    }
  })
}

function checks(library: Library, load: Load, publisher: () => Publisher): void {
  let opened: Opened
  const query = async <Row>(text: string): Promise<Row[]> =>
    (opened.query === undefined ? await publisher().database.query(text) : await opened.query(text)) as Row[]

  beforeAll(async () => {
    opened = await library.open(load, publisher().url)
  })
  afterAll(() => opened?.close())

  const thing = `insert into things values ('mine')`
  const things = async (): Promise<number> => (await query('select from things')).length
  const stored = async (): Promise<Stored[]> =>
    query(`select topic, key, json_typeof(payload) as kind, payload::text, headers::text,
      encode(body, 'hex') as body from twinbox.outbox order by seq`)
  const within = (work: (tx: TransactionInput) => Promise<unknown>): Promise<void> =>
    opened.transaction(async (tx: TransactionInput) => {
      await opened.run(tx, thing)
      await work(tx)
    })
  const rollback = new Error('on purpose')
  /** Some libraries wrap what their callback throws. */
  const rolledBack = async (work: (tx: TransactionInput) => Promise<unknown>): Promise<void> => {
    await expect(
      within(async (tx) => {
        await work(tx)
        throw rollback
      }),
    ).rejects.toThrow('on purpose')
  }
  beforeEach(async () => {
    await query(
      'delete from twinbox.outbox; delete from twinbox.deferred; delete from twinbox.dedupe; delete from things',
    )
  })

  test('what is committed is in the outbox, as it was given', async () => {
    await within(async (tx) => {
      // Refused before any SQL: the transaction is as it was.
      await expect(outbox.publish(tx, { topic: 't', payload: undefined })).rejects.toMatchObject({
        name: 'MessageError',
      })
      await outbox.publish(tx, { topic: 'object', key: 'k', payload, headers })
      await outbox.publish(tx, { topic: 'bytes', payload: bytes })
      await outbox.publish(tx, { topic: 'text', payload: '17' })
    })
    expect(await things()).toBe(1)
    expect(await stored()).toEqual([
      {
        ...{ topic: 'object', key: 'k', kind: 'object', body: null },
        ...{ payload: JSON.stringify(payload), headers: JSON.stringify(headers) },
      },
      { topic: 'bytes', key: null, kind: null, payload: null, headers: null, body: '000102ff5c27' },
      { topic: 'text', key: null, kind: 'string', payload: '"17"', headers: null, body: null },
    ])
  })

  test('many: each as it was given, in their order', async () => {
    await within(async (tx) => {
      const published = await outbox.publishMany(tx, [
        { topic: 'object', key: 'k', payload, headers },
        { topic: 'bytes', key: 'k', payload: bytes },
        { topic: 'text', key: 'k', payload: '17' },
      ])
      expect(published.map(({ duplicate }) => duplicate)).toEqual([false, false, false])
    })
    const rows = await stored()
    expect(rows.map(({ topic, kind, body }) => [topic, kind, body])).toEqual([
      ['object', 'object', null],
      ['bytes', null, '000102ff5c27'],
      ['text', 'string', null],
    ])
    expect(rows[0]).toMatchObject({ payload: JSON.stringify(payload), headers: JSON.stringify(headers) })
  })

  test('a second one of a dedupe key is a duplicate of the first, alone and among many', async () => {
    const message = { topic: 't', payload, headers, dedupeKey: 'd' }
    let first = ''
    await within(async (tx) => {
      const published = await outbox.publish(tx, message)
      first = published.id
      expect(published.duplicate).toBe(false)
      expect(await outbox.publish(tx, message)).toEqual({ id: first, duplicate: true })
    })
    await within(async (tx) => {
      const many = await outbox.publishMany(tx, [
        { topic: 't', payload: bytes },
        message,
        { ...message, dedupeKey: 'e' },
      ])
      expect(many.map(({ duplicate }) => duplicate)).toEqual([false, true, false])
      expect(many[1]).toEqual({ id: first, duplicate: true })
    })
    expect((await stored()).map(({ kind, body }) => kind ?? body)).toEqual([
      'object',
      '000102ff5c27',
      'object',
    ])
  })

  test('delayed ones wait, and can be cancelled by id and by dedupe key', async () => {
    const waiting = (): Promise<unknown[]> =>
      query('select topic, json_typeof(payload) as kind from twinbox.deferred order by topic')
    let id = ''
    await within(async (tx) => {
      const delayed = { payload, delayMs: 60_000 }
      ;({ id } = await outbox.publish(tx, { ...delayed, topic: 'a' }))
      await outbox.publish(tx, {
        payload,
        deliverAt: new Date(Date.now() + 60_000),
        topic: 'b',
        dedupeKey: 'd',
      })
      await outbox.publishMany(tx, [
        { ...delayed, topic: 'c' },
        { ...delayed, topic: 'd', payload: bytes },
      ])
    })
    expect(await waiting()).toEqual(
      ['a', 'b', 'c', 'd'].map((topic) => ({ topic, kind: topic === 'd' ? null : 'object' })),
    )
    await rolledBack(async (tx) => {
      expect(await outbox.cancel(tx, { id })).toEqual({ cancelled: true })
    })
    await within(async (tx) => {
      expect(await outbox.cancel(tx, { id })).toEqual({ cancelled: true })
      expect(await outbox.cancel(tx, { topic: 'b', dedupeKey: 'd' })).toEqual({ cancelled: true })
      expect(await outbox.cancel(tx, { id })).toEqual({ cancelled: false })
    })
    expect(await waiting()).toHaveLength(2)
    expect(await stored()).toEqual([])
  })

  test('what is rolled back never existed', async () => {
    await rolledBack(async (tx) => {
      await outbox.publish(tx, { topic: 't', payload })
      await outbox.publishMany(tx, [
        { topic: 't', payload },
        { topic: 't', payload, delayMs: 1000 },
      ])
      await outbox.publish(tx, { topic: 't', payload, dedupeKey: 'd' })
    })
    expect(await things()).toBe(0)
    expect(await query('select id from twinbox.outbox union all select id from twinbox.deferred')).toEqual([])
    expect(await query('select id from twinbox.dedupe')).toEqual([])
  })

  test('a savepoint that is rolled back takes its messages with it, and no others', async () => {
    await within(async (tx) => {
      await outbox.publish(tx, { topic: 'outer', payload })
      await expect(
        opened.nested(tx, async (inner: TransactionInput) => {
          await outbox.publish(inner, { topic: 'inner', payload })
          throw rollback
        }),
      ).rejects.toThrow('on purpose')
      await opened.nested(tx, async (inner: TransactionInput) => {
        await outbox.publish(inner, { topic: 'kept', payload })
      })
      await outbox.publish(tx, { topic: 'after', payload })
    })
    expect((await stored()).map(({ topic }) => topic)).toEqual(['outer', 'kept', 'after'])
  })

  test('an ordering lock is held until the transaction ends', async () => {
    const locks = async (): Promise<number> =>
      (
        await publisher().database
          .query(`select from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and database = (
        select oid from pg_database where datname = current_database())`)
      ).length
    await within(async (tx) => {
      await outbox.publish(tx, { topic: 't', key: 'a', payload }, { orderingLock: true })
      // Of a server in this process, another session cannot look.
      if (opened.query === undefined) expect(await locks()).toBe(1)
      await outbox.publishMany(
        tx,
        [
          { topic: 't', key: 'b', payload },
          { topic: 't', key: 'c', payload },
        ],
        { orderingLock: true },
      )
      if (opened.query === undefined) expect(await locks()).toBe(3)
    })
    expect(await locks()).toBe(0)
    expect(await stored()).toHaveLength(3)
  })

  test('outside of a transaction all is refused, and nothing written', async () => {
    const refusal = {
      name: 'TransactionError',
      code: 'NO_TRANSACTION',
      message: expect.stringMatching(/Pass (the|a) |Await BEGIN/) as string,
    }
    const { outside } = opened
    const saidOf = async (of: (given: TransactionInput) => Promise<unknown>): Promise<unknown> =>
      Promise.all(
        Object.entries(outside).map(async ([what, given]) => [
          what,
          await of(given as TransactionInput).catch((error: unknown) => error),
        ]),
      )
    const refused = Object.keys(outside).map((what) => [what, expect.objectContaining(refusal)])
    expect(await saidOf((given) => outbox.publish(given, { topic: 't', payload }))).toEqual(refused)
    expect(
      await saidOf((given) => outbox.publishMany(given, [{ topic: 't', payload, dedupeKey: 'd' }])),
    ).toEqual(refused)
    expect(await saidOf((given) => outbox.cancel(given, { topic: 't', dedupeKey: 'd' }))).toEqual(refused)
    expect(await stored()).toEqual([])
    expect(await query('select id from twinbox.dedupe')).toEqual([])
  })

  test.skipIf(library.forgets === true)('after its end a transaction is refused', async () => {
    let leaked: TransactionInput | undefined
    await within(async (tx) => {
      leaked = tx
      await Promise.resolve()
    })
    // Whoever says it, the library or we.
    await expect(outbox.publish(leaked!, { topic: 't', payload })).rejects.toThrow(/./)
    expect(await stored()).toEqual([])
  })

  test('in a transaction that has failed, publishing says so', async () => {
    const publishing = async (tx: TransactionInput): Promise<unknown> => {
      // Not await alone: what some of them give is sent each time that it is waited for.
      await Promise.resolve(opened.run(tx, 'select 1 / 0')).catch(() => {})
      return outbox.publish(tx, { topic: 't', payload }).catch((error: unknown) => error)
    }
    let refused: Promise<unknown> | undefined
    const ends = opened.transaction(async (tx: TransactionInput) => {
      refused = publishing(tx)
      throw await refused
    })
    // With that error, or with the first one, by which postgres.js ends what has failed.
    await expect(ends).rejects.toThrow(/./)
    // Or there is none any more: postgres.js 3.0 rolls back at once, and may say so before publishing is refused.
    expect(await refused).toMatchObject({
      code: expect.stringMatching(/^(TRANSACTION_ABORTED|NO_TRANSACTION)$/) as string,
    })
    expect(await stored()).toEqual([])
  })

  // Its claimer holds locks, which others count.
  describe.runIf(library.binds)('bound to the client of a claim', () => {
    boundChecks(
      () => opened,
      () => publisher().database,
    )
  })

  // In this process there is no server that a claimer could connect to.
  test.skipIf(library.name === 'PGlite')(
    'handles in its transaction, with effects and completion together',
    async () => {
      const { url } = publisher().database
      const owner = await library.open(load, url)
      const inbox = new Database(url)
      const events = recordEvents()
      const consumer = `c${randomBytes(4).toString('hex')}`
      const claimer = createClaimer(
        {
          ...{ database: url, consumer, onEvent: events.onEvent, backoffMsMin: 1, backoffMsMax: 1 },
          transaction: inTransaction((run) => owner.transaction(run)),
        },
        {
          t: async (message, { tx, attempt }) => {
            await owner.run(tx, `insert into things values ('attempt ${attempt} of ${message.key}')`)
            await outbox.publish(tx as TransactionInput, { topic: 'follows', payload: attempt })
            if (attempt === 1) throw rollback
          },
        },
      )
      try {
        await claimer.start()
        await receive(inbox, [inboxMessage({ consumer, key: 'k' }), inboxMessage({ consumer, key: null })])
        await events.next('handled', undefined, 2)
      } finally {
        await claimer.stop()
        await inbox.close()
        await owner.close()
      }
      expect(await query('select name from things order by name')).toEqual([
        { name: 'attempt 2 of k' },
        { name: 'attempt 2 of null' },
      ])
      expect((await stored()).map(({ payload: stands }) => stands)).toEqual(['2', '2'])
      expect(await query(`select from twinbox.inbox where consumer = '${consumer}'`)).toEqual([])
      expect(events.of('message_failed').map(({ error }) => (error as Error).message)).toEqual([
        rollback.message,
        rollback.message,
      ])
    },
  )
}
