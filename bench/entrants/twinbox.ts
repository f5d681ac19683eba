import pg from 'pg'
import type { Broker } from '../../src/brokers/broker.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { createClaimer } from '../../src/claimer/claimer.ts'
import type { HandlerEntry } from '../../src/claimer/handlers.ts'
import { openDatabase, type DatabaseInput } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import { createOutbox, migrate, type TwinboxEvent } from '../../src/index.ts'
import { inboxLanes } from '../../src/database/layout.ts'
import type { ReceiverOptions } from '../../src/receiver/options.ts'
import { createReceiver } from '../../src/receiver/receiver.ts'
import { createRelay } from '../../src/relay/relay.ts'
import { laneSql } from '../../src/database/sql/lane.ts'
import type { Entrant, Place, Stop, Task } from '../race/entrant.ts'
import { message, numberIn, numberOf, portions, share, topic, type RaceMessage } from '../race/messages.ts'
import { brokerOf, consumer, isKafka, nameOf } from './brokers.ts'
import { publishSeldom, publishSteadily } from './steady.ts'
import type { Tally } from '../race/tally.ts'
import {
  businessTable,
  effectsTable,
  insertBusiness,
  insertEffect,
  insertEffects,
  onPool,
  publishingToo,
  retryError,
} from './common.ts'
import { inboxMessage } from '../../test/support/messages.ts'

const outbox = createOutbox()

async function create(url: string): Promise<void> {
  await migrate(url)
  await onPool(url, 1, async (pool) => {
    await pool.query(`${effectsTable}; ${businessTable}`)
  })
}

/** As a receiver would: in batches, each with its ids written to `seen`. */
async function fillInbox(url: string, task: Task): Promise<void> {
  const { database } = openDatabase(url, { poolSize: 1 })
  await database.query(laneSql(database.schema).create, { consumer, count: inboxLanes })
  if (isLarge(task)) {
    await onPool(url, 1, (pool) => fillLarge(pool, 'inbox', task))
    return database.close()
  }
  for (const portion of portions(task)) {
    const rows = portion.map(({ key, payload }) =>
      inboxMessage({ consumer, topic, key, payload: JSON.stringify(payload), publishedAt: new Date() }),
    )
    await receive(database, rows)
  }
  await database.close()
}

const isLarge = ({ payload }: Task): boolean => payload.startsWith('large')

/** Made by the server: sending it that much takes longer than all laps. Contents as of `contentOf`. */
async function fillLarge(pool: pg.Pool, table: 'outbox' | 'inbox', task: Task): Promise<void> {
  const [columns, values] = table === 'inbox' ? ['consumer, lane', '$3, 64 + n % 8'] : ['lane', 'n % 64']
  const content =
    task.payload === 'large'
      ? `('{"n":' || n || ',"text":"' || text || '"}')::json, null::bytea, null`
      : `null, int4send(n) || substr(text, 5)::bytea, 'application/octet-stream'`
  await pool.query(
    `with packed as materialized (select repeat('x', 1048576) as text),
      noise as materialized (select string_agg(md5(i::text), '') as text from generate_series(1, 32768) as i)
    insert into twinbox.${table} (${columns}, id, topic, payload, body, content_type)
    select ${values}, gen_random_uuid(), $1, ${content}
    from generate_series(0, $2::int - 1) as n
    join lateral (select text from packed where n % 2 = 0 union all select text from noise where n % 2 = 1) as t on true`,
    [topic, task.messages, ...(table === 'inbox' ? [consumer] : [])],
  )
}

async function fillOutbox(url: string, task: Task): Promise<void> {
  await onPool(url, 1, async (pool) => {
    if (isLarge(task)) return fillLarge(pool, 'outbox', task)
    const client = await pool.connect()
    for (const portion of portions(task)) {
      await client.query('begin')
      await outbox.publishMany(
        client,
        portion.map(({ key, payload }) => ({ topic, key, payload })),
      )
      await client.query('commit')
    }
    client.release()
  })
}

interface Body {
  readonly n: number
  readonly at?: number
}

/** The handler that a task asks for. */
export function handlerOf(task: Task, tally: Tally): HandlerEntry<unknown> {
  const { failures = 0 } = task
  const handlers: Record<NonNullable<Task['handler']>, HandlerEntry<unknown>> = {
    insert: async ({ payload }, { client }) => {
      const { n } = payload as Body
      await client.query(insertEffect, [n])
      tally.note(n)
    },
    'insert-many': {
      batch: true,
      batchSize: 100,
      handle: async (messages, { client }) => {
        const ns = messages.map(({ payload }) => (payload as Body).n)
        await client.query(insertEffects, [ns])
        for (const n of ns) tally.note(n)
      },
    },
    hold: {
      transaction: false,
      handle: ({ payload }, { signal }) => {
        tally.note((payload as Body).n)
        return new Promise((resolve) => signal.addEventListener('abort', resolve))
      },
    },
    async: {
      transaction: false,
      handle: async ({ payload }) => {
        await new Promise((resolve) => setImmediate(resolve))
        tally.note((payload as Body).n)
      },
    },
    'no-op': {
      transaction: false,
      handle: ({ payload }, { attempt }) => {
        if (attempt <= failures) throw retryError
        tally.note(numberIn(payload), (payload as Body).at)
      },
    },
  }
  return handlers[task.handler ?? 'no-op']
}

export function claimerOf(database: DatabaseInput, task: Task, tally: Tally) {
  const { concurrency, batchSize, keyWindow, runSize, failures = 0 } = task
  return createClaimer(
    {
      database,
      consumer,
      concurrency,
      batchSize,
      // Those of an earlier commit, beside which this one may be measured, know neither.
      ...(keyWindow === undefined ? {} : { keyWindow }),
      ...(runSize === undefined ? {} : { runSize }),
      // Each message fails at first, and a pause of the topic is not what is measured.
      ...(failures > 0 ? { backoffMsMin: 0, backoffMsMax: 0, circuit: false } : {}),
    },
    { [topic]: handlerOf(task, tally) },
  )
}

/** Confirms at once what it is given. */
function nullBroker(tally: Tally): Broker {
  return {
    name: 'null',
    async send(batch) {
      for (const { content } of batch) tally.note(numberOf(content))
      return batch.map(() => ({ status: 'sent' as const }))
    },
    subscribe: async () => ({ stop: async () => {} }),
    close: async () => {},
  }
}

export function relayOf(url: string, task: Task, broker: Broker) {
  return createRelay({ database: url, broker, batchSize: task.batchSize })
}

/** Notes what a real broker has confirmed. */
function noting(broker: Broker, tally: Tally): Broker {
  return {
    ...broker,
    async send(batch, context) {
      const outcomes = await broker.send(batch, context)
      for (const [index, { content }] of batch.entries()) {
        if (outcomes[index]!.status === 'sent') tally.note(numberOf(content))
      }
      return outcomes
    },
  }
}

async function relayToNull({ url }: Place, task: Task, tally: Tally): Promise<Stop> {
  const relay = relayOf(url, task, nullBroker(tally))
  await relay.start()
  return () => relay.stop()
}

/** One process publishes, seldom; the other one is all of Twinbox. */
async function latency(place: Place, task: Task, tally: Tally): Promise<Stop> {
  const { url, process } = place
  if (process === 0) {
    await onPool(url, 1, async (pool) => {
      const client = await pool.connect()
      await publishSeldom(task, tally, async (messages) => {
        await client.query('begin')
        await outbox.publish(client, { topic, payload: messages[0]!.payload })
        await client.query('commit')
      })
      client.release()
    })
    return async () => {}
  }
  const broker = postgres({ database: url })
  await broker.subscribe({ consumer, topics: [topic], batchSize: 1 }, async () => {})
  const relay = relayOf(url, task, broker)
  const claimer = claimerOf(url, task, tally)
  await relay.start()
  await claimer.start()
  return async () => {
    await relay.stop()
    await claimer.stop()
    await broker.close()
  }
}

/** Published one after the other on each connection, a transaction each, with a row of the application's own. */
async function publishSingle({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  let next = from
  await onPool(url, task.concurrency, async (pool) => {
    const publish = async (client: pg.PoolClient): Promise<void> => {
      while (next < to) {
        const { n, key, payload } = message(next++, task)
        const since = tally.now
        await client.query('begin')
        await client.query(insertBusiness, [n])
        await outbox.publish(client, { topic, key, payload })
        await client.query('commit')
        tally.note(n, since)
      }
      client.release()
    }
    const clients = await Promise.all(Array.from({ length: task.concurrency }, () => pool.connect()))
    await Promise.all(clients.map(publish))
  })
  return async () => {}
}

async function publishBulk({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  await onPool(url, 1, async (pool) => {
    const client = await pool.connect()
    for (const portion of portions(task, task.batchSize, from, to)) {
      const since = tally.now
      await client.query('begin')
      await outbox.publishMany(
        client,
        portion.map(({ key, payload }) => ({ topic, key, payload })),
      )
      await client.query('commit')
      for (const { n } of portion) tally.note(n, since)
    }
    client.release()
  })
  return async () => {}
}

/** What is at the broker goes into the inbox. Which message it was is not told: it is numbered as it comes. */
async function receiveAll({ url }: Place, task: Task, tally: Tally): Promise<Stop> {
  const broker = brokerOf(url, task)
  const onEvent = (event: TwinboxEvent): void => {
    if (event.type === 'received') for (let fresh = 0; fresh < event.fresh; fresh++) tally.note(tally.count)
  }
  const receiver = createReceiver({ database: url, broker, consumer, topics: [topic], onEvent })
  await receiver.start()
  return async () => {
    await receiver.stop()
    await broker.close()
  }
}

const consumersOf = (task: Task): string[] =>
  Array.from({ length: task.consumers ?? 1 }, (_, index) => `${consumer}-${index}`)

/** Moved from the outbox into the inbox of every consumer. No payload comes by here: an id says which message it was. */
async function fanOut({ url }: Place, task: Task, tally: Tally): Promise<Stop> {
  const numbers = new Map<string, number>()
  await onPool(url, 1, async (pool) => {
    const { rows } = await pool.query<{ id: string; n: number }>(
      `select id, (payload->>'n')::int as n from twinbox.outbox`,
    )
    for (const { id, n } of rows) numbers.set(id, n)
  })
  const broker = postgres({ database: url })
  const relay = createRelay({
    database: url,
    broker,
    batchSize: task.batchSize,
    onEvent: (event) => {
      if (event.type === 'sent') for (const id of event.ids) tally.note(numbers.get(id)!)
    },
  })
  await relay.start()
  return async () => {
    await relay.stop()
    await broker.close()
  }
}

type Publish = (messages: readonly RaceMessage[]) => Promise<void>

/** The first process publishes and relays, the others receive and handle. */
const pipeline =
  (publishing: (task: Task, tally: Tally, publish: Publish) => Promise<void>) =>
  async (place: Place, task: Task, tally: Tally): Promise<Stop> => {
    const { url, process } = place
    const broker = task.broker === undefined ? postgres({ database: url }) : brokerOf(url, task)
    if (process > 0) {
      const receiver = createReceiver({ database: url, broker, consumer, ...receivingOf(url, task) })
      const claimer = claimerOf(url, task, tally)
      await receiver.start()
      await claimer.start()
      return async () => {
        await receiver.stop()
        await claimer.stop()
        await broker.close()
      }
    }
    // Whoever subscribes later than a message is sent does not get it; with other brokers that has been seen to.
    if (task.broker === undefined)
      await broker.subscribe({ consumer, topics: [topic], batchSize: 1 }, async () => {})
    const relay = relayOf(url, task, broker)
    await relay.start()
    const pool = new pg.Pool({ connectionString: url, max: 1 })
    pool.on('error', () => {})
    const client = await pool.connect()
    const published = publishing(task, tally, async (messages) => {
      await client.query('begin')
      await outbox.publishMany(
        client,
        messages.map(({ key, payload }) => ({ topic, key, payload })),
      )
      await client.query('commit')
    })
    published.catch(() => {})
    return async () => {
      await published
      await relay.stop()
      await broker.close()
      client.release()
      await pool.end()
    }
  }

const receivingOf = (url: string, task: Task): Pick<ReceiverOptions, 'topics' | 'from' | 'topicOf'> =>
  task.broker !== undefined && isKafka(task)
    ? { topics: [topic], from: [nameOf(url)], topicOf: ({ attributes }) => attributes['type'] ?? '' }
    : { topics: [topic] }

async function allAtOnce(task: Task, _: Tally, publish: Publish): Promise<void> {
  for (const portion of portions(task, task.batchSize)) await publish(portion)
}

const written = `select (payload->>'n')::int as n from twinbox.outbox order by seq`
const leftInInbox = `select ((select count(*) from twinbox.inbox) + (select count(*) from twinbox.deferred) +
  (select count(*) from twinbox.parked_message) + (select count(*) from twinbox.dead_letter))::int as left`

const leftAnywhere = `select (select count(*)::int from twinbox.outbox) + x.left as left from (${leftInInbox}) as x`

export const entrants: Readonly<Record<string, Entrant>> = {
  claim: {
    create,
    fill: fillInbox,
    left: leftInInbox,
    async work({ url }, task, tally) {
      // Many in one process share its connections.
      const count = task.claimers ?? 1
      const { database } = openDatabase(url, { poolSize: 4 })
      const claimers = Array.from({ length: count }, () =>
        claimerOf(count === 1 ? url : database, task, tally),
      )
      await Promise.all(claimers.map((claimer) => claimer.start()))
      return async () => {
        await Promise.all(claimers.map((claimer) => claimer.stop()))
        await database.close()
      }
    },
  },
  relay: {
    create,
    fill: fillOutbox,
    left: 'select count(*)::int as left from twinbox.outbox',
    work: relayToNull,
  },
  publish: { once: true, create, written, keepsOrder: true, work: publishBulk },
  'publish-single': { once: true, create, written, work: publishSingle },
  pipeline: {
    create,
    left: leftAnywhere,
    work: pipeline(allAtOnce),
  },
  steady: { create, left: leftAnywhere, work: pipeline(publishSteadily) },
  latency: { create, left: leftAnywhere, work: latency },
  send: {
    create,
    fill: fillOutbox,
    left: 'select count(*)::int as left from twinbox.outbox',
    async work({ url }, task, tally) {
      const broker = brokerOf(url, task)
      const relay = relayOf(url, task, noting(broker, tally))
      await relay.start()
      return async () => {
        await relay.stop()
        await broker.close()
      }
    },
  },
  receive: { create, work: receiveAll },
  'fan-out': {
    async create(url, task) {
      await create(url)
      const broker = postgres({ database: url })
      for (const name of consumersOf(task))
        await broker.subscribe({ consumer: name, topics: [topic], batchSize: 1 }, async () => {})
      await broker.close()
    },
    fill: fillOutbox,
    left: 'select count(*)::int as left from twinbox.outbox',
    work: fanOut,
  },
  cycle: {
    create,
    left: 'select count(*)::int as left from twinbox.outbox',
    work: publishingToo(relayToNull, publishBulk),
  },
}
