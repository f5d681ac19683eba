import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { migrate } from '../../src/index.ts'
import type { Entrant, Place, Stop, Task } from '../race/entrant.ts'
import { message, numberOf, portions, share, topic, type RaceMessage } from '../race/messages.ts'
import type { Tally } from '../race/tally.ts'
import { businessTable, effectsTable, insertBusiness, insertEffect, insertEffects, onPool } from './common.ts'
import { bareKafka, bareRabbitmq } from './brokers.ts'
import { bareZeromq } from './zeromq.ts'
import { entrants as twinbox } from './twinbox.ts'

/**
 * No library at all: the fewest statements that move the same rows through the same tables. What they promise is less
 * (nobody takes over, nothing is fenced, a late commit is missed), so this is a bound and no peer.
 */

const columns = 'lane, id, topic, key, headers, payload, body, content_type'
const insertMany = {
  name: 'bare_insert_many',
  text: `insert into twinbox.outbox (${columns}) select * from unnest($1::smallint[], $2::uuid[], $3::text[], $4::text[],
    $5::json[], $6::json[], $7::bytea[], $8::text[])`,
}
const insertOne = {
  name: 'bare_insert_one',
  text: `insert into twinbox.outbox (${columns}) values ($1, $2, $3, $4, $5, $6, $7, $8)`,
}
const read = (table: string) => ({
  name: `bare_read_${table}`,
  text: `select o.lane, o.seq, o.id, o.topic, o.key, o.headers::text, o.payload::text, o.body, o.content_type
    from twinbox.${table} as o where o.lane = $1 and o.seq > $2 order by o.seq limit $3`,
})
const remove = (table: string) => ({
  name: `bare_delete_${table}`,
  text: `delete from twinbox.${table} as o using unnest($1::smallint[], $2::bigint[]) as a(lane, seq)
    where o.lane = a.lane and o.seq = a.seq`,
})

async function create(url: string): Promise<void> {
  await migrate(url)
  await onPool(url, 1, async (pool) => {
    await pool.query(`${effectsTable}; ${businessTable};
      -- As the inbox, but with nothing for several consumers.
      create table twinbox.bare_inbox (like twinbox.outbox including all)`)
  })
}

const laneOf = (n: number): number => (n >> 6) & 63

function valuesOf(messages: readonly RaceMessage[]): unknown[] {
  const nothing = messages.map(() => null)
  return [
    messages.map(({ n }) => laneOf(n)),
    messages.map(() => randomUUID()),
    messages.map(() => topic),
    messages.map(({ key }) => key),
    nothing,
    messages.map(({ payload }) => JSON.stringify(payload)),
    nothing,
    nothing,
  ]
}

/** `work` on a connection of its own, once. */
async function onClient(url: string, work: (client: pg.PoolClient) => Promise<void>): Promise<Stop> {
  await onPool(url, 1, async (pool) => {
    const client = await pool.connect()
    await work(client)
    client.release()
  })
  return async () => {}
}

function publish({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  return onClient(url, async (client) => {
    for (const portion of portions(task, task.batchSize, from, to)) {
      const since = tally.now
      await client.query('begin')
      await client.query({ ...insertMany, values: valuesOf(portion) })
      await client.query('commit')
      for (const { n } of portion) tally.note(n, since)
    }
  })
}

async function publishSingle({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  let next = from
  await onPool(url, task.concurrency, async (pool) => {
    const each = async (client: pg.PoolClient): Promise<void> => {
      while (next < to) {
        const { n, key, payload } = message(next++, task)
        const since = tally.now
        await client.query('begin')
        await client.query(insertBusiness, [n])
        const values = [laneOf(n), randomUUID(), topic, key, null, JSON.stringify(payload), null, null]
        await client.query({ ...insertOne, values })
        await client.query('commit')
        tally.note(n, since)
      }
      client.release()
    }
    const clients = await Promise.all(Array.from({ length: task.concurrency }, () => pool.connect()))
    await Promise.all(clients.map(each))
  })
  return async () => {}
}

interface Row {
  readonly lane: number
  readonly seq: string
  readonly payload: string
}

/** Reads and deletes one lane after the other, in batches, until nothing is left of them. */
async function drain(
  client: pg.PoolClient,
  table: string,
  lanes: readonly number[],
  batchSize: number,
  each: (rows: readonly Row[]) => unknown,
): Promise<void> {
  for (const lane of lanes) {
    for (let after = '0'; ;) {
      const { rows } = await client.query<Row>({ ...read(table), values: [lane, after, batchSize] })
      if (rows.length === 0) break
      await each(rows)
      await client.query({
        ...remove(table),
        values: [rows.map((row) => row.lane), rows.map(({ seq }) => seq)],
      })
      after = rows.at(-1)!.seq
    }
  }
}

const lanesOf = (process: number, processes: number): number[] =>
  Array.from({ length: 64 }, (_, lane) => lane).filter((lane) => lane % processes === process)

function relay({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  return onClient(url, (client) =>
    drain(client, 'outbox', lanesOf(process, task.processes), task.batchSize, (rows) => {
      for (const { payload } of rows) tally.note(numberOf(payload))
    }),
  )
}

/** The handler's transaction alone: no message is read, none is completed. */
async function handle({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  const batch = task.handler === 'insert-many' ? 100 : 1
  let next = from
  await onPool(url, task.concurrency, async (pool) => {
    const each = async (client: pg.PoolClient): Promise<void> => {
      while (next < to) {
        const ns = Array.from({ length: Math.min(batch, to - next) }, (_, index) => next + index)
        next += ns.length
        await client.query('begin')
        await (batch === 1 ? client.query(insertEffect, [ns[0]]) : client.query(insertEffects, [ns]))
        await client.query('commit')
        for (const n of ns) tally.note(n)
      }
      client.release()
    }
    const clients = await Promise.all(Array.from({ length: task.concurrency }, () => pool.connect()))
    await Promise.all(clients.map(each))
  })
  return async () => {}
}

/** Each stage for all messages of this process, one stage after the other: the sum of the stages. */
function pipeline({ url, process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const { from, to } = share(task, process)
  // A lane is one process's, so that nobody waits for another one's stage.
  const mine = lanesOf(process, task.processes)
  const placed = (portion: readonly RaceMessage[]): unknown[] => [
    portion.map(({ n }) => mine[laneOf(n) % mine.length]),
    ...valuesOf(portion).slice(1),
  ]
  return onClient(url, async (client) => {
    for (const portion of portions(task, task.batchSize, from, to))
      await client.query({ ...insertMany, values: placed(portion) })
    await drain(client, 'outbox', mine, task.batchSize, (rows) => {
      for (const { payload } of rows) numberOf(payload)
    })
    for (const portion of portions(task, task.batchSize, from, to)) {
      const { name, text } = insertMany
      await client.query({
        name: `${name}_inbox`,
        text: text.replace('twinbox.outbox', 'twinbox.bare_inbox'),
        values: placed(portion),
      })
    }
    await drain(client, 'bare_inbox', mine, task.batchSize, (rows) => {
      for (const { payload } of rows) tally.note((JSON.parse(payload) as { n: number }).n)
    })
  })
}

const filled = twinbox['relay']!
const { written } = twinbox['publish']!

export const entrants: Readonly<Record<string, Entrant>> = {
  publish: { once: true, create, written: written!, keepsOrder: true, work: publish },
  'publish-single': { once: true, create, written: written!, work: publishSingle },
  relay: { ...filled, once: true, create, work: relay },
  handle: { once: true, create, work: handle },
  rabbitmq: { once: true, create, work: bareRabbitmq },
  zeromq: { once: true, create, work: bareZeromq },
  kafka: { once: true, create, work: bareKafka },
  platformatic: {
    once: true,
    create,
    // On an older Node, importing it is a syntax error already.
    work: async (place, task, tally) =>
      (await import('./platformatic.ts')).barePlatformatic(place, task, tally),
  },
  pipeline: {
    create,
    left: `select (select count(*)::int from twinbox.outbox) + (select count(*)::int from twinbox.bare_inbox) as left`,
    work: pipeline,
  },
}
