import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { createEndpoint } from '../src/cli/endpoint.ts'
import {
  BrokerError,
  createClaimer,
  createHealth,
  createOutbox,
  createReceiver,
  createRelay,
  type Broker,
  type Health,
  type HealthReport,
  type Worker,
} from '../src/index.ts'
import { recordEvents } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { startProxy } from '../proof/stage/proxy.ts'

let database: TestDatabase
let health: Health
const stops: (() => Promise<unknown>)[] = []
beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  health = createHealth(database.url, { stuckAfterMs: 1000 })
})
afterEach(async () => {
  for (const stop of stops.splice(0).toReversed()) await stop()
  await health.close()
  await database.query('truncate twinbox.outbox, twinbox.inbox')
})
afterAll(() => database.drop())

const healthy = { live: true, ready: true, problems: [] }

/** Looks until the report is as it should be: how long that takes depends on the machine. */
async function reports(matches: (report: HealthReport) => boolean): Promise<HealthReport> {
  for (;;) {
    const report = await health.check()
    if (matches(report)) return report
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function run(worker: Worker): Promise<Worker> {
  stops.push(() => worker.stop())
  health.watch(worker)
  await worker.start()
  return worker
}

const publish = () =>
  database.transaction((client) => createOutbox().publish(client, { topic: 't', key: 'k', payload: 1 }))

const broker = (): Broker => {
  const made = postgres({ database: database.url })
  stops.push(() => made.close())
  return made
}

/** A broker of a user's own, with whatever is wrong with it. */
const brokerThat = (send: Broker['send']): Broker => ({
  name: 'own',
  send,
  subscribe: async () => ({ stop: async () => {} }),
  close: async () => {},
})

describe('health', () => {
  test('is good while work moves, and while there is none', async () => {
    const seen = recordEvents()
    const onEvent = (event: Parameters<typeof seen.onEvent>[0]): void => {
      health.onEvent(event)
      seen.onEvent(event)
    }
    const own = broker()
    const shared = { database: database.url, onEvent }
    const relay = createRelay({ ...shared, broker: own })
    health.watch(relay)
    expect(await health.check()).toEqual({
      live: true,
      ready: false,
      problems: [{ who: 'relay', why: 'It is not running.', restart: false }],
    })
    stops.push(() => relay.stop())
    await relay.start()
    await run(createReceiver({ ...shared, broker: own, consumer: 'billing', topics: ['#'] }))
    await run(createClaimer({ ...shared, consumer: 'billing' }, { '#': () => {} }))
    await publish()
    await seen.next('handled')
    await reports(({ ready }) => ready)
    expect(await health.check()).toEqual(healthy)
  })

  test('of a relay that does not send what waits is bad, though every connection is well', async () => {
    let release = (): void => {}
    const hangs = new Promise<void>((resolve) => (release = resolve))
    const sends = brokerThat(async (batch) => {
      await hangs
      return batch.map(() => ({ status: 'sent' }))
    })
    await run(
      createRelay({ database: database.url, broker: sends, onEvent: health.onEvent, stopTimeoutMs: 0 }),
    )
    await reports(({ ready }) => ready)
    await publish()
    const { problems } = await reports(({ live }) => !live)
    expect(problems).toEqual([
      {
        who: 'relay',
        why: expect.stringMatching(
          /^Messages wait, the oldest for .*, and none has been sent for .*\.$/,
        ) as string,
        restart: true,
      },
    ])
    release()
    await reports(({ live, ready }) => live && ready)
  })

  test('of a claimer whose handler hangs is not ready, and a restart is not called for', async () => {
    const seen = recordEvents()
    await database.query(`insert into twinbox.subscription values ('slow', 't') on conflict do nothing`)
    let release = (): void => {}
    const hangs = new Promise<void>((resolve) => (release = resolve))
    await run(createRelay({ database: database.url, broker: broker(), onEvent: health.onEvent }))
    await run(
      createClaimer(
        { database: database.url, consumer: 'slow', onEvent: health.onEvent },
        { '#': () => hangs },
      ),
    )
    seen.all.length = 0
    await publish()
    const { live, problems } = await reports(
      ({ ready, problems: found }) => !ready && found.some(({ why }) => why.includes('handlers hang')),
    )
    expect(live).toBe(true)
    expect(problems).toMatchObject([{ who: 'claimer slow', restart: false }])
    release()
    await reports(({ ready }) => ready)
  })

  test('in an outage of the broker is not ready, and says why', async () => {
    let away = true
    const flaky = brokerThat(async (batch) =>
      batch.map(() =>
        away
          ? { status: 'failed', error: new BrokerError('reconnect', 'Gone, at amqp://me:secret@host.') }
          : { status: 'sent' },
      ),
    )
    await run(createRelay({ database: database.url, broker: flaky, onEvent: health.onEvent }))
    await publish()
    const { live, problems } = await reports(({ problems: found }) =>
      found.some(({ why }) => /broker/.test(why)),
    )
    expect(live).toBe(true)
    expect(problems[0]!.why).toMatch(
      /^The broker has been out of reach for .*: Gone, at amqp:\/\/me:\*\*\*@host\.$/,
    )
    away = false
    await reports(({ ready }) => ready)
  })

  test('in an outage of the database is not ready, and a restart is not called for', async () => {
    const { hostname, port } = new URL(database.url)
    const proxy = await startProxy({ host: hostname, port: Number(port) || 5432 })
    stops.push(() => proxy.close())
    const through = Object.assign(new URL(database.url), { host: `127.0.0.1:${proxy.port}` }).toString()
    const own = createHealth(through)
    stops.push(() => own.close())
    expect(await own.check()).toEqual(healthy)
    await proxy.refuse()
    let report = await own.check()
    while (report.ready) report = await own.check()
    expect(report).toMatchObject({
      live: true,
      ready: false,
      problems: [{ who: 'database', restart: false }],
    })
  })

  test('of a worker whose heartbeat is late is bad', async () => {
    const relay = await run(
      createRelay({
        database: database.url,
        broker: broker(),
        onEvent: health.onEvent,
        heartbeatMs: 60_000,
        deadAfterMs: 3_600_000,
      }),
    )
    await reports(({ ready }) => ready)
    await database.query(`update twinbox.worker set beat_at = now() - interval '1 minute' where id = $1`, [
      relay.id,
    ])
    const { problems } = await reports(({ live }) => !live)
    expect(problems[0]!.why).toMatch(/^Its last heartbeat is 1 min old\.|60\.\d s old\.$/)
  })

  test.each([0, 999, 86_400_001, '60'])('stuckAfterMs: %s is refused', (stuckAfterMs) => {
    expect(() => createHealth(database.url, { stuckAfterMs: stuckAfterMs as number })).toThrow(/stuckAfterMs/)
  })
})

describe('over HTTP', () => {
  test('metrics and health are served on loopback, to those who only look', async () => {
    const said: string[] = []
    const endpoint = await createEndpoint({
      database: database.url,
      schema: 'twinbox',
      port: 0,
      host: '127.0.0.1',
      stuckAfterMs: undefined,
      token: undefined,
    })
    stops.push(() => endpoint.close())
    const relay = createRelay({ database: database.url, broker: broker(), onEvent: endpoint.onEvent })
    await endpoint.open([relay], { onEvent: () => {}, say: (text) => void said.push(text) })
    const [url] = /http:\/\/127\.0\.0\.1:\d+/.exec(said[0]!)!
    const get = async (path: string, method = 'GET') => {
      const response = await fetch(url + path, { method })
      return { status: response.status, text: await response.text() }
    }
    expect(await get('/health/live')).toMatchObject({ status: 200 })
    const ready = await get('/health/ready')
    expect([ready.status, JSON.parse(ready.text)]).toMatchObject([
      503,
      { ok: false, problems: [{ who: 'relay', why: 'It is not running.' }] },
    ])
    stops.push(() => relay.stop())
    await relay.start()
    while ((await get('/health/ready')).status !== 200)
      await new Promise((resolve) => setTimeout(resolve, 50))
    const scraped = await get('/metrics')
    expect(scraped.status).toBe(200)
    expect(scraped.text).toContain('twinbox_workers{kind="relay",consumer="",state="alive"} 1')
    expect(await get('/')).toMatchObject({ status: 404 })
    expect(await get('/metrics', 'POST')).toMatchObject({ status: 405 })
    expect(await get('/health/live', 'HEAD')).toEqual({ status: 200, text: '' })
  })

  test('a port that is taken is used wrongly', async () => {
    const open = async (port: number) => {
      const options = {
        database: database.url,
        schema: 'twinbox',
        host: '127.0.0.1',
        stuckAfterMs: undefined,
        token: undefined,
      }
      const endpoint = await createEndpoint({ ...options, port })
      stops.push(() => endpoint.close())
      const said: string[] = []
      await endpoint.open([], { onEvent: () => {}, say: (text) => void said.push(text) })
      return Number(/:(\d+) /.exec(said[0]!)![1])
    }
    const port = await open(0)
    await expect(open(port)).rejects.toThrow(
      `Cannot listen on 127.0.0.1:${port} for metrics and health: EADDRINUSE.`,
    )
  })
})
