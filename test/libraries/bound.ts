import { randomBytes } from 'node:crypto'
import type pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import {
  bind,
  createClaimer,
  createOutbox,
  withTransaction,
  type TransactionContext,
  type TransactionInput,
} from '../../src/index.ts'
import type { TwinboxEvent } from '../../src/base/events.ts'
import { recordEvents } from '../support/events.ts'
import { inboxMessage } from '../support/messages.ts'
import type { TestDatabase } from '../support/postgres.ts'
import type { Bindable, Opened } from './libraries.ts'

// oxlint-disable-next-line typescript/no-explicit-any
type Any = any
type Work = (tx: Any, context: TransactionContext<unknown>) => Promise<unknown>

const outbox = createOutbox()

/** What libraries read in ways of their own. */
const values = `select 9007199254740993::int8 as big, '2026-01-02'::date as day, '2026-01-02 03:04:05+00'::timestamptz as at,
  '2026-01-02 03:04:05'::timestamp as then, 1.5::numeric as part, '{"a":1}'::jsonb as json, array[1, 2]::int8[] as list,
  int4range(1, 3) as range, interval '1 day' as span`

/** A library that is bound to the client of a claim: one claimer, whose handlers do what each test says. */
export function boundChecks(opened: () => Opened, database: () => TestDatabase): void {
  const events = recordEvents()
  const consumer = `c${randomBytes(4).toString('hex')}`
  const works = new Map<string, Work>()
  let inbox: Database
  let claimer: ReturnType<typeof createClaimer>
  let bindable: Bindable

  beforeAll(async () => {
    bindable = opened().bound!
    inbox = new Database(database().url)
    claimer = createClaimer(
      {
        ...{ database: database().url, consumer, onEvent: events.onEvent },
        // One connection, so that what comes next is on the same.
        ...{ concurrency: 1, maxAttempts: 2, onDead: 'skip' as const, backoffMsMin: 1, backoffMsMax: 1 },
      },
      {
        '#': async ({ topic }, context) =>
          works.get(topic)!(await bind(context.client, bindable.instance as object), context),
      },
    )
    await claimer.start()
  })
  afterAll(async () => {
    await claimer?.stop()
    await inbox?.close()
  })

  let topics = 0
  /** Has a message handled in this way, twice if the first attempt fails; tells how the attempts have failed. */
  async function handled(work: Work, key: string | null = 'k'): Promise<unknown[]> {
    const topic = `t${topics++}`
    works.set(topic, work)
    await receive(inbox, [inboxMessage({ consumer, topic, key })])
    const isIts = (event: TwinboxEvent): boolean => 'topic' in event && event.topic === topic
    const dead = events.next('dead_letter', isIts).then((letter) => {
      throw new Error(JSON.stringify(letter))
    })
    await Promise.race([events.next('handled', isIts), dead])
    expect(await database().query(`select from twinbox.inbox where consumer = '${consumer}'`)).toEqual([])
    return events
      .of('message_failed')
      .filter(isIts)
      .map(({ error }) => error)
  }
  const things = async (): Promise<string[]> =>
    (await database().query<{ name: string }>('select name from things order by name')).map(
      ({ name }) => name,
    )
  const published = async (): Promise<string[]> =>
    (await database().query<{ topic: string }>('select topic from twinbox.outbox order by seq')).map(
      ({ topic }) => topic,
    )

  test.each(['k', null])('effects and completion together, key %s', async (key) => {
    const failed = await handled(async (tx, { attempt }) => {
      await bindable.insert(tx, `inserted ${attempt}`)
      await opened().run(tx, `insert into things values ('run ${attempt}')`)
      await outbox.publish(tx as TransactionInput, { topic: `follows.${attempt}`, payload: attempt })
      await outbox.publishMany(tx as TransactionInput, [{ topic: `many.${attempt}`, key: 'k', payload: 1 }])
      if (attempt === 1) throw new Error('on purpose')
    }, key)
    expect(failed).toEqual([expect.objectContaining({ message: 'on purpose' })])
    expect(await things()).toEqual(['inserted 2', 'run 2'])
    expect(await published()).toEqual(['follows.2', 'many.2'])
  })

  test('a transaction inside is a savepoint', async () => {
    const failed = await handled(async (tx) => {
      await bindable.insert(tx, 'outer')
      const inner = opened().nested(tx, async (nested) => {
        await bindable.insert(nested, 'inner')
        await outbox.publish(nested as TransactionInput, { topic: 'inner', payload: 1 })
        throw new Error('on purpose')
      })
      await expect(inner).rejects.toThrow('on purpose')
      await opened().nested(tx, async (nested) => {
        await bindable.insert(nested, 'kept')
        await outbox.publish(nested as TransactionInput, { topic: 'kept', payload: 1 })
      })
      await bindable.insert(tx, 'after')
    })
    expect(failed).toEqual([])
    expect(await things()).toEqual(['after', 'kept', 'outer'])
    expect(await published()).toEqual(['kept'])
  })

  test('it cannot end the transaction, even if the refusal is swallowed', async () => {
    const ways = [
      ...Object.values(bindable.ending),
      (tx: Any) => opened().run(tx, "select 'a;b'; commit; begin"),
    ]
    for (const way of ways) {
      const failed = await handled(async (tx, { attempt }) => {
        await bindable.insert(tx, `attempt ${attempt}`)
        await outbox.publish(tx as TransactionInput, { topic: `follows.${attempt}`, payload: attempt })
        if (attempt === 1) await Promise.resolve(way(tx)).catch(() => {})
      })
      expect(failed).toEqual([expect.objectContaining({ code: 'TRANSACTION_OWNED' })])
      expect(await things()).toEqual(['attempt 2'])
      expect(await published()).toEqual(['follows.2'])
      await database().query('delete from things; delete from twinbox.outbox')
    }
  })

  test('after the end of the handler all is refused', async () => {
    let leaked: Any
    await handled(async (tx) => {
      leaked = tx
      await bindable.insert(tx, 'first')
    })
    const refused = expect.objectContaining({ reason: expect.anything() as unknown }) as unknown
    const use = (): Promise<unknown> =>
      Promise.allSettled([
        bindable.insert(leaked, 'leaked'),
        opened().run(leaked, `insert into things values ('leaked')`),
        opened().nested(leaked, async (nested) => void (await bindable.insert(nested, 'leaked'))),
        outbox.publish(leaked as TransactionInput, { topic: 'leaked', payload: 1 }),
      ])
    expect(await use()).toEqual([refused, refused, refused, refused])
    // By now the client is in the transaction of another message.
    await handled(async (tx) => {
      await bindable.insert(tx, 'second')
      expect(await use()).toEqual([refused, refused, refused, refused])
    })
    expect(await things()).toEqual(['first', 'second'])
    expect(await published()).toEqual([])
  })

  test('it reads values as it does by itself', async () => {
    const read = async (tx: Any): Promise<unknown> => {
      const given = (await opened().run(tx, values)) as Any
      return Array.isArray(given) ? [given[0]].flat()[0] : given.rows[0]
    }
    let [itself, bound]: unknown[] = []
    await opened().transaction(async (tx) => void (itself = await read(tx)))
    await handled(async (tx) => void (bound = await read(tx)))
    expect(Object.keys(itself as object)).toHaveLength(9)
    expect(bound).toEqual(itself)
  })

  test('in withTransaction as in a handler, and to nothing else', async () => {
    const { pool } = database()
    const instance = bindable.instance as object
    await withTransaction(pool, async (client) => {
      const tx = await bind(client, instance)
      await bindable.insert(tx, 'mine')
      await outbox.publish(tx, { topic: 'mine', payload: 1 })
    })
    const committed = withTransaction(pool, async (client) => {
      await bindable.insert(await bind(client, instance), 'undone')
      await Promise.resolve(opened().run(await bind(client, instance), 'rollback')).catch(() => {})
    })
    await expect(committed).rejects.toMatchObject({ code: 'TRANSACTION_OWNED' })
    expect([await things(), await published()]).toEqual([['mine'], ['mine']])
    const outside = await pool.connect()
    try {
      const refused = { code: 'NO_TRANSACTION' }
      for (const none of [outside, pool, undefined, {}])
        await expect(bind(none as pg.ClientBase, instance)).rejects.toMatchObject(refused)
      await outside.query('begin')
      for (const given of Object.values(bindable.unbound ?? {}))
        await expect(bind(outside, given as object)).rejects.toThrow('bind got')
    } finally {
      await outside.query('rollback')
      outside.release()
    }
  })
}
