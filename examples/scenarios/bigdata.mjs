/**
 * Big data. A million rows are added up in chunks by workers of unequal speed, one of which dies on the way. Each chunk counts
 * once, so the sums are those that one SQL statement over all rows gives.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import * as twinbox from 'twinbox'
import { kafka } from 'twinbox/kafka'
import { postgres } from 'twinbox/postgres'
import { args, ask, database, hire, raise, schema, until, url, work } from './stage.mjs'
import { say, show, tell } from './telling.mjs'

const consumer = schema
const topic = `${schema}.chunk`
const rowsPerChunk = 1000
const pausesMs = { quick: 50, steady: 100, slow: 500 }

// ── What would run in production ────────────────────────────────────────────────────────────────────────────────────

/** One message for each thousand rows. They have no key: any worker may take any of them. @param {number} rows */
async function publishChunks(rows) {
  const firsts = Array.from({ length: Math.ceil(rows / rowsPerChunk) }, (_, n) => n * rowsPerChunk)
  await twinbox.withTransaction(database, (client) =>
    twinbox.createOutbox({ schema }).publishMany(
      client,
      firsts.map((first) => ({ topic, payload: { first, last: first + rowsPerChunk - 1 } })),
    ),
  )
  return firsts.length
}

async function courier() {
  const broker = url
    ? kafka({ brokers: url.split(','), topology: 'declare' })
    : postgres({ database, schema })
  const receiver = twinbox.createReceiver({ database, schema, broker, consumer, topics: [topic] })
  await work([receiver, twinbox.createRelay({ database, schema, broker, onEvent: tell('the relay') })])
}

/** Takes up to five chunks at a time. What a dead one held goes to whoever has the least in flight. */
async function worker() {
  const [name = '', pauseMs] = args
  const claimer = twinbox.createClaimer(
    { database, schema, consumer, concurrency: 2, failover: 'least-work', onEvent: tell(name) },
    {
      [topic]: {
        batch: true,
        batchSize: 5,
        handle: async (messages, { client, signal }) => {
          await sleep(Number(pauseMs), null, { signal })
          // Together with the completion of these messages, or not at all: nothing else keeps a chunk from counting twice.
          await client.query(
            `insert into counted (chunk, worker, rows, total)
            select first, $1, count(*), sum(amount) from json_to_recordset($2) as chunk (first int, last int)
            join sales on sales.id between first and last group by first`,
            [name, JSON.stringify(messages.map(({ payload }) => payload))],
          )
        },
      },
    },
  )
  await work([claimer])
}

// ── The play ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** @param {number} rows */
async function bigData(rows) {
  say(`making ${rows} rows`)
  await database.query(`create table sales as select id::int, (random() * 10000)::int as amount
    from generate_series(0, ${rows - 1}) as id`)
  await database.query('alter table sales add primary key (id)')
  await database.query('create table counted (chunk int, worker text, rows int, total bigint)')
  await hire('courier')
  const workers = await Promise.all(Object.entries(pausesMs).map((each) => hire('worker', ...each)))
  const nameOf = (/** @type {number} */ pid) =>
    Object.keys(pausesMs)[workers.findIndex((one) => one.pid === pid)]
  const chunks = await publishChunks(rows)
  say(`published ${chunks} chunks`)
  let killed = false
  await until(async () => {
    const { rows: shares } = await database.query(
      'select worker, count(*) as chunks from counted group by worker order by worker',
    )
    const done = await ask('select count(distinct chunk) from counted')
    const bar = '█'.repeat((30 * done) / chunks).padEnd(30, '░')
    const byWorker = shares.map((share) => `${share.worker} ${share.chunks}`).join(', ')
    show(`${bar} ${Math.floor((100 * done) / chunks)} %  ${byWorker}`)
    if (!killed && done > chunks * 0.3) {
      killed = workers[0]?.kill('SIGKILL') ?? false
      const claimers = await twinbox.readWorkers(database, { schema, kind: 'claimer' })
      const held = claimers.map(({ pid, inFlight }) => `${nameOf(pid)} ${inFlight}`).join(', ')
      say(`killed the quick worker; chunks in flight: ${held}`)
    }
    return done === chunks && (await waiting()) === 0
  })

  const twice = await ask('select count(*) - count(distinct chunk) from counted')
  const counted = await ask(`select sum(rows) || ' rows, ' || sum(total) from counted`)
  const should = await ask(`select count(*) || ' rows, ' || sum(amount) from sales`)
  say(`added up by chunks: ${counted}`)
  say(`added up by SQL:    ${should}`)
  const wrong = twice === 0 ? [] : [`${twice} chunks were counted twice.`]
  if (counted !== should) wrong.push(`By chunks it is ${counted}; by one statement over all rows, ${should}.`)
  if (!killed) wrong.push('No worker was killed.')
  if (wrong.length === 0) say(`All is well: ${rows} rows in ${chunks} chunks, each counted once.`)
  return wrong
}

/** Messages that nobody has handled yet. */
async function waiting() {
  const { outbox, consumers } = await twinbox.readStatus(database, { schema })
  return consumers.reduce((sum, { depth, deferred }) => sum + depth + deferred.count, outbox.depth)
}

/** @param {string} at */
async function clearBroker(at) {
  const { Kafka, logLevel } = await import('kafkajs')
  const admin = new Kafka({ brokers: at.split(','), logLevel: logLevel.NOTHING }).admin()
  await admin.connect()
  await admin.deleteTopics({ topics: [topic] })
  await admin.deleteGroups([`twinbox.${consumer}`]).catch(() => {})
  await admin.disconnect()
}

const apache = { broker: 'Kafka', client: 'kafkajs', url: '127.0.0.1:9092' }
await raise(
  { count: 1_000_000, least: 10_000, of: 'rows', ...apache },
  { courier, worker },
  bigData,
  clearBroker,
)
