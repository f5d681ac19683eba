/**
 * Real time. People talk in chat rooms, and gateways deliver what they say to their phones. A gateway dies while everybody
 * talks: within a second the others deliver for its rooms, nothing is missing, and each room reads in the order it was said.
 */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import * as twinbox from 'twinbox'
import { postgres } from 'twinbox/postgres'
import { zeromq } from 'twinbox/zeromq'
import { args, ask, database, hire, pause, raise, schema, until, url, work } from './stage.mjs'
import { say, show, tell } from './telling.mjs'

const consumer = 'gateway'
const outbox = twinbox.createOutbox({ schema })
const rooms = Array.from({ length: 20 }, (_, n) => `room-${n + 1}`)
/** Over ZeroMQ the relay sends to the first gateway that answers; the other addresses are its standbys. */
const broker = () =>
  url
    ? zeromq({ consumers: { [consumer]: { addresses: url.split(','), topics: ['chat.*'] } } })
    : postgres({ database, schema })

// ── What would run in production ────────────────────────────────────────────────────────────────────────────────────

/** @typedef {{ room: string, n: number, at: number }} Line the nth of its room, said at that time */

/** The room is the key: what is said in it is delivered one line after the other. @param {Line} line */
async function speak(line) {
  await twinbox.withTransaction(database, async (client) => {
    await client.query('insert into said (room, n) values ($1, $2)', [line.room, line.n])
    await outbox.publish(client, { topic: 'chat.said', key: line.room, payload: line })
  })
}

async function relay() {
  await work([twinbox.createRelay({ database, schema, broker: broker(), onEvent: tell('the relay') })])
}

/** Receives for all rooms or stands by, and delivers for the rooms whose lanes it holds, to whoever is connected to it. */
async function gateway() {
  /** @type {Set<import('node:net').Socket>} */
  const phones = new Set()
  const server = createServer((phone) => {
    phones.add(phone)
    phone.on('error', () => {}).once('close', () => phones.delete(phone))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const receiver = twinbox.createReceiver({
    database,
    schema,
    broker: broker(),
    consumer,
    topics: ['chat.*'],
  })
  const claimer = twinbox.createClaimer(
    { database, schema, consumer, concurrency: 8, onEvent: tell(String(args[0])) },
    {
      'chat.said': async ({ payload }, { client }) => {
        const { room, n } = /** @type {Line} */ (payload)
        await client.query('insert into history (room, n, gateway) values ($1, $2, $3)', [room, n, args[0]])
        // Not undone when this process dies before the commit. Then phones get the line again, and know it by its number.
        const text = `${JSON.stringify(payload)}\n`
        await Promise.all([...phones].map((phone) => new Promise((sent) => phone.write(text, sent))))
      },
    },
  )
  await work([receiver, claimer], /** @type {import('node:net').AddressInfo} */ (server.address()).port)
}

// ── The play ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** @param {number} seconds */
async function realTime(seconds) {
  await database.query(
    'create table said (room text, n int); create table history (room text, n int, gateway text)',
  )
  const gateways = await Promise.all([1, 2, 3].map((n) => hire('gateway', `gateway-${n}`)))
  await hire('relay')
  /** @type {Map<string, number[]>} what a phone has heard of each room, in order */
  const heard = new Map(rooms.map((room) => [room, []]))
  /** @type {number[]} */
  const delays = []
  let again = 0
  for (const { port } of gateways) {
    createInterface(connect(port, '127.0.0.1').on('error', () => {})).on('line', (text) => {
      const { room, n, at } = /** @type {Line} */ (JSON.parse(text))
      if (heard.get(room)?.includes(n)) again++
      else if (heard.get(room)?.push(n)) delays.push(Date.now() - at)
    })
  }
  say(`for ${seconds} s people talk in ${rooms.length} rooms, 100 lines a second`)
  let told = 0
  const timer = setInterval(() => {
    show(`delivered ${delays.length} lines, in the last second with ${percentiles(delays.slice(told))}`)
    told = delays.length
  }, 1000)
  const endsAt = performance.now() + seconds * 1000
  /** Each resolves to the number of lines. */
  const talks = rooms.map(async (room) => {
    for (let n = 1; ; n++) {
      await speak({ room, n, at: Date.now() })
      if (performance.now() > endsAt) return n
      await pause(100 + Math.random() * 200)
    }
  })
  const killing = pause(seconds * 500).then(() => {
    say(`killed gateway-1 (pid ${gateways[0]?.pid})`)
    return gateways[0]?.kill('SIGKILL')
  })
  const [killed, said] = await Promise.all([killing, Promise.all(talks)])
  await until(() => rooms.every((room, index) => heard.get(room)?.includes(said[index] ?? 0)))
  await until(
    async () => (await ask('select count(*) from history')) >= (await ask('select count(*) from said')),
  )

  clearInterval(timer)
  say(
    `delivered ${delays.length} lines with ${percentiles(delays)}; ${again} came twice, and phones dropped these`,
  )
  const wrong = rooms.flatMap((room, index) => {
    const should = Array.from({ length: said[index] ?? 0 }, (_, n) => n + 1).join(' ')
    const is = heard.get(room)?.join(' ')
    return is === should ? [] : [`${room} should read ${should}, and it reads ${is}.`]
  })
  const twice = await ask('select count(*) - count(distinct (room, n)) from history')
  if (twice > 0) wrong.push(`${twice} lines are in the history twice.`)
  if (!killed) wrong.push('No gateway was killed.')
  if (wrong.length === 0)
    say(`All is well: each of ${delays.length} lines was delivered, in the order of its room.`)
  return wrong
}

/** @param {number[]} delays */
function percentiles(delays) {
  const sorted = delays.toSorted((a, b) => a - b)
  const [p50, p99] = [0.5, 0.99].map((share) => sorted[Math.ceil(sorted.length * share) - 1] ?? 0)
  return `p50 ${p50} ms, p99 ${p99} ms`
}

// Nothing is left behind: without a server there is nothing to remove.
const zero = { broker: 'ZeroMQ', client: 'zeromq', url: 'tcp://127.0.0.1:7301,tcp://127.0.0.1:7302' }
await raise({ count: 12, least: 4, of: 'seconds', ...zero }, { relay, gateway }, realTime, async () => {})
