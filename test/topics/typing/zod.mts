import pg from 'pg'
import { z } from 'zod'
import {
  createClaimer,
  createOutbox,
  defineConfig,
  defineTopics,
  inTransaction,
  type Handlers,
  type LibraryConsumerConfig,
  type Message,
  type MessageOf,
  type Outbox,
  type PayloadOf,
  type PrismaTransaction,
} from 'twinbox'

/** What is accepted and refused; compiled by test/package.test.ts with each TypeScript that is supported. */

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const same = <Whether extends true>(): Whether => true as Whether

const topics = defineTopics({
  'order.placed': {
    schema: z.object({
      id: z.string(),
      total: z.number(),
      at: z.string().transform((text) => new Date(text)),
    }),
    key: (payload) => {
      same<Equal<typeof payload, { id: string; total: number; at: Date }>>()
      return payload.id
    },
    version: 2,
    upcast: { 1: (old: { id: string }) => ({ ...old, total: 0, at: '' }) },
    summary: 'An order was placed.',
  },
  'order.paid': { schema: z.object({ id: z.string(), by: z.enum(['card', 'cash']) }), key: ({ id }) => id },
  'mail.due': { schema: z.object({ to: z.string().default('all') }) },
})

// @ts-expect-error a key is made of the payload, and this one is a number
defineTopics({ a: { schema: z.object({ n: z.number() }), key: (payload) => payload.n } })
// @ts-expect-error there is no such field in the payload
defineTopics({ a: { schema: z.object({ n: z.number() }), key: (payload) => payload.id } })
// @ts-expect-error that is no schema
defineTopics({ a: { schema: {} } })
// @ts-expect-error no such option
defineTopics({ a: { schema: z.string(), sumary: 'x' } })

const client = new pg.Client()
const outbox = createOutbox({ topics })
const named: Outbox<typeof topics> = outbox
await named.publish(client, { topic: 'order.placed', payload: { id: '1', total: 1, at: '2026-11-30' } })
await outbox.publish(client, { topic: 'mail.due', key: 'k', payload: {}, headers: { a: 'b' }, delayMs: 5 })
await outbox.publishMany(client, [
  { topic: 'order.paid', payload: { id: '1', by: 'card' } },
  { topic: 'mail.due', payload: { to: 'me' } },
])
// @ts-expect-error no such topic
await outbox.publish(client, { topic: 'order.plced', payload: { id: '1', total: 1, at: '' } })
// @ts-expect-error total is a number
await outbox.publish(client, { topic: 'order.placed', payload: { id: '1', total: '1', at: '' } })
// @ts-expect-error what is published is what the schema takes
await outbox.publish(client, { topic: 'order.placed', payload: { id: '1', total: 1, at: new Date() } })
// @ts-expect-error that is the payload of another topic
await outbox.publish(client, { topic: 'order.paid', payload: { to: 'me' } })
// @ts-expect-error in one of many as well
await outbox.publishMany(client, [{ topic: 'order.paid', payload: { id: '1', by: 'chec' } }])
// @ts-expect-error no payload
await outbox.publish(client, { topic: 'order.paid' })

const options = { database: '', consumer: 'billing' }
createClaimer(
  { ...options, topics },
  {
    'order.placed': async ({ payload, topic, id }, { client: inside, signal }) => {
      same<Equal<typeof payload, { id: string; total: number; at: Date }>>()
      same<Equal<typeof topic, 'order.placed'>>()
      await inside.query('select 1', [id, signal.aborted])
    },
    'order.paid': {
      transaction: false,
      handle: (message, { attempt }) => message.payload.by + String(attempt),
    },
    'order.*': (message) => {
      same<Equal<typeof message.topic, 'order.placed' | 'order.paid'>>()
      if (message.topic === 'order.placed') same<Equal<typeof message.payload.at, Date>>()
      else same<Equal<typeof message.payload.by, 'card' | 'cash'>>()
    },
    '*.due': { batch: true, handle: (messages) => messages.map(({ payload }) => payload.to.length) },
    '#': {
      batch: true,
      transaction: false,
      handle: (messages) => {
        for (const message of messages) {
          if (message.topic === 'mail.due') same<Equal<typeof message.payload.to, string>>()
          else message.payload.id.toUpperCase()
        }
      },
    },
    '*.*': (message) => message.topic,
    'order.#': (message) => message.payload.id,
    '#.placed': (message) => message.payload.total,
  },
)
// @ts-expect-error no defined topic matches
createClaimer({ ...options, topics }, { 'oder.*': () => {} })
// @ts-expect-error no such topic
createClaimer({ ...options, topics }, { 'order.plced': () => {} })
// @ts-expect-error no such field
createClaimer({ ...options, topics }, { 'order.placed': ({ payload }) => payload.totl })
// @ts-expect-error a union has to be narrowed
createClaimer({ ...options, topics }, { 'order.*': ({ payload }) => payload.total })
// @ts-expect-error a batch is several
createClaimer({ ...options, topics }, { 'mail.due': { batch: true, handle: (message) => message.payload } })
// @ts-expect-error what defineTopics gives is no list of patterns
createClaimer({ ...options, topics: ['order.*'] }, { 'order.placed': () => {} })

interface Tables {
  invoices: { order_id: string }
}
createClaimer<Tables, typeof topics>(
  { ...options, topics },
  {
    'order.placed': async ({ payload }, { trx }) => {
      await trx.insertInto('invoices').values({ order_id: payload.id }).execute()
      // @ts-expect-error no such table
      await trx.insertInto('invocies').values({ order_id: payload.id }).execute()
    },
  },
)

// Apart from the claimer.
const placed = (message: MessageOf<typeof topics, 'order.placed'>): number => message.payload.total
const paid = (payload: PayloadOf<typeof topics, 'order.paid'>): 'card' | 'cash' => payload.by
const handlers: Handlers<Tables, typeof topics> = {
  'order.placed': placed,
  'order.paid': ({ payload }) => paid(payload),
}
createClaimer<Tables, typeof topics>({ ...options, topics }, handlers)
export default defineConfig({
  topics,
  consumers: {
    billing: { topics: topics.names, handlers: { 'order.placed': ({ payload }) => payload.at.getTime() } },
  },
})
defineConfig({
  topics,
  // @ts-expect-error no such field
  consumers: { billing: { topics: topics.names, handlers: { 'order.placed': ({ payload }) => payload.ta } } },
})
// One that gets transactions of a data library beside one that does not. It says its type: of the two the compiler would find neither.
type LibraryTx = PrismaTransaction & { readonly invoice: { create(id: string): Promise<unknown> } }
declare const prisma: { $transaction(run: (tx: LibraryTx) => Promise<void>): Promise<void> }
const transaction = inTransaction<LibraryTx>((run) => prisma.$transaction(run))
const billing: LibraryConsumerConfig<LibraryTx, typeof topics> = {
  topics: topics.names,
  transaction,
  handlers: {
    'order.placed': async ({ payload }, { tx, attempt }) => {
      same<Equal<typeof tx, LibraryTx>>()
      await tx.invoice.create(payload.id + String(attempt))
    },
    // @ts-expect-error its context has no client
    'order.paid': (message, { client: inside }) => inside,
  },
}
defineConfig({
  topics,
  consumers: {
    billing,
    shipping: {
      topics: ['order.*'],
      handlers: {
        'order.placed': async ({ payload }, { client: inside, trx }) => {
          await inside.query('select 1', [payload.id, trx.isTransaction])
        },
      },
    },
  },
})

// As it was: any topic, any payload, and a handler that says its types itself.
const plain = createOutbox({ maxPendng: undefined } as { maxPending?: number })
await plain.publish(client, { topic: 'anything', payload: new Map() })
const untyped: Outbox = plain
createClaimer<Tables>(options, {
  'a.#.b': async (message: Message, { trx }) => {
    same<Equal<typeof message.payload, unknown>>()
    await trx.deleteFrom('invoices').execute()
  },
  c: {
    transaction: false,
    handle: ({ payload, topic }) => same<Equal<[typeof payload, typeof topic], [unknown, string]>>(),
  },
  d: { batch: true, batchSize: 5, handle: (messages, { trx }) => [messages.length, trx] },
})
const some: Handlers<Tables> = { x: (message) => message.id }
createClaimer(options, some)
export const all: unknown[] = [untyped]
