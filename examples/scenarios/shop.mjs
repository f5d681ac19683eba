/**
 * A shop. Its payment provider charges each order once, although a process dies with a charge on the way, the provider goes
 * down, and some cards are declined. A refund never overtakes its payment.
 */
import * as twinbox from 'twinbox'
import { postgres } from 'twinbox/postgres'
import { rabbitmq } from 'twinbox/rabbitmq'
import { openProvider } from './provider.mjs'
import { args, ask, database, hire, pause, raise, schema, until, url, work } from './stage.mjs'
import { say, tell } from './telling.mjs'

const consumer = 'payments'
const outbox = twinbox.createOutbox({ schema })

// ── What would run in production ────────────────────────────────────────────────────────────────────────────────────

/** An order and its message exist together, or neither does. @param {string} id @param {string} card */
async function place(id, card) {
  await twinbox.withTransaction(database, async (client) => {
    await client.query('insert into orders (id, card) values ($1, $2)', [id, card])
    await outbox.publish(client, { topic: 'order.placed', key: id, payload: { id }, dedupeKey: id })
  })
}

/** @param {string} id */
async function sendBack(id) {
  await twinbox.withTransaction(database, async (client) => {
    await client.query('update orders set sent_back = true where id = $1', [id])
    await outbox.publish(client, { topic: 'order.sent_back', key: id, payload: { id }, dedupeKey: id })
  })
}

/** Carries what was published through the broker into the inbox of the consumer. */
async function courier() {
  const queue = () => `${schema}.${consumer}`
  const broker = url ? rabbitmq({ url, exchange: schema, queue }) : postgres({ database, schema })
  const receiver = twinbox.createReceiver({ database, schema, broker, consumer, topics: ['order.*'] })
  await work([receiver, twinbox.createRelay({ database, schema, broker, onEvent: tell('the relay') })])
}

/** Handles it: of an order one message at a time, in order, since all of them have its id for their key. */
async function claimer() {
  const [name = ''] = args
  const options = { database, schema, consumer, concurrency: 4, backoffMsMax: 1000, onEvent: tell(name) }
  const worker = twinbox.createClaimer(options, {
    'order.placed': async ({ key: id }, { client, idempotencyKey }) => {
      const { rows } = await client.query('select card from orders where id = $1', [id])
      // No rollback takes a charge back. So each attempt passes on the same key, by which the provider charges once.
      const charge = await call('charge', idempotencyKey, { order: id, ...rows[0] })
      await client.query('insert into payments (id, charge) values ($1, $2)', [id, charge])
    },
    'order.sent_back': async ({ key: id }, { client, idempotencyKey }) => {
      const { rows } = await client.query('select charge from payments where id = $1', [id])
      const refund = await call('refund', idempotencyKey, { order: id, ...rows[0] })
      await client.query('insert into refunds (id, refund) values ($1, $2)', [id, refund])
    },
  })
  await work([worker])
}

/** @param {'charge' | 'refund'} what @param {string} idempotencyKey @param {object} body */
async function call(what, idempotencyKey, body) {
  const headers = { 'idempotency-key': idempotencyKey, 'x-pid': String(process.pid) }
  const answer = await fetch(`${args[1]}/${what}`, { method: 'POST', headers, body: JSON.stringify(body) })
  // Trying again would not help, a new card would. Until then, what else happens to this order waits behind it.
  if (answer.status === 402) throw new twinbox.DeadLetterError('the card was declined')
  if (!answer.ok) throw new Error(`The provider says ${answer.status}.`)
  return answer.text()
}

// ── The play ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** @param {number} orders */
async function shop(orders) {
  await database.query(`create table orders (id text primary key, card text, sent_back bool default false)`)
  await database.query(
    'create table payments (id text, charge text); create table refunds (id text, refund text)',
  )
  const provider = await openProvider(({ order, pid }) => {
    if (killed || provider.ledger.length < orders / 3) return
    killed = claimers.find((one) => one.pid === pid)
    // It is charged. Whoever has asked dies before he hears of it, and his transaction is rolled back.
    if (killed?.kill('SIGKILL')) say(`killed a claimer (pid ${pid}): ${order} is charged, and nobody knows`)
  })
  say(`the payment provider listens at ${provider.url}`)
  await hire('courier')
  const claimers = await Promise.all([1, 2, 3].map((n) => hire('claimer', `claimer-${n}`, provider.url)))
  /** @type {typeof claimers[number] | undefined} */
  let killed

  say(`${orders} orders are placed: of ten, one is sent back; of twenty, one has a card that has expired`)
  for (let n = 1; n <= orders; n++) {
    await place(`order-${n}`, n % 20 === 0 ? 'expired' : 'good')
    if (n % 10 === 0) await sendBack(`order-${n}`)
    if (n === Math.ceil(orders * 0.6)) {
      say('the provider goes down; orders are placed all the same')
      void provider.goDown(1500).then(() => say('the provider is back'))
    }
    await pause(5)
  }
  const declined = Math.floor(orders / 20)
  const sentBack = Math.floor(orders / 10)
  const parked = () =>
    twinbox.readParkedKeys(database, { consumer, error: 'declined' }, { schema, limit: 1000 })
  await until(async () => (await parked()).keys.length === declined)
  await until(async () => (await ask('select count(*) from payments')) === orders - declined)
  for (const { key, reason, waiting } of (await parked()).keys.slice(0, 1))
    say(`${declined} orders are parked, such as ${key} (${reason}), with ${waiting} message behind`)
  await database.query(`update orders set card = 'new' where card = 'expired'`)
  await twinbox.redriveParkedKeys(database, { consumer, error: 'declined' }, { schema, reason: 'new cards' })
  say('the customers have new cards, so their orders are redriven')
  await until(async () => (await ask('select count(*) from payments')) === orders)
  await until(async () => (await ask('select count(*) from refunds')) === sentBack)

  say(
    `the provider was asked ${provider.counts.requests} times, and has done ${provider.ledger.length} things`,
  )
  const { rows } = await database.query('select id, sent_back from orders')
  const wrong = rows.flatMap(({ id, sent_back }) => {
    const done = provider.ledger.flatMap(({ order, what }) => (order === id ? [what] : [])).join(', ')
    const due = sent_back ? 'charge, refund' : 'charge'
    return done === due ? [] : [`Of ${id} the provider has done "${done}", and not "${due}".`]
  })
  if (!killed) wrong.push('No claimer was killed.')
  if (wrong.length === 0)
    say(`All is well: ${orders} orders, a charge each; ${sentBack} refunds, behind their charges.`)
  return wrong
}

/** @param {string} at */
async function clearBroker(at) {
  const connection = await (await import('amqplib')).connect(at)
  const channel = await connection.createChannel()
  await channel.deleteQueue(`${schema}.${consumer}`)
  await channel.deleteExchange(schema)
  await connection.close()
}

const rabbit = { broker: 'RabbitMQ', client: 'amqplib', url: 'amqp://127.0.0.1' }
await raise({ count: 200, least: 20, of: 'orders', ...rabbit }, { courier, claimer }, shop, clearBroker)
