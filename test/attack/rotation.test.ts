import { createHmac, randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import pg from 'pg'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import type { Broker, SendOutcome } from '../../src/brokers/broker.ts'
import { kafka, type KafkaOptions } from '../../src/brokers/kafka/kafka.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { rabbitmq, type RabbitmqOptions } from '../../src/brokers/rabbitmq/rabbitmq.ts'
import { Database } from '../../src/database/database.ts'
import { planned } from '../../src/database/sql/statement.ts'
import { createOutbox, createReceiver, createRelay, migrate, withTransaction } from '../../src/index.ts'
import { startEmbeddedServer } from '../../proof/stage/postgres.ts'
import { collector, errorOf, outgoing, statuses, subscribe } from '../brokers/collector.ts'
import { recordEvents } from '../support/events.ts'
import { startSaslKafka } from '../support/kafka.ts'
import { startRabbitmq } from '../support/servers/rabbitmq.ts'
import { describeWith } from '../support/require.ts'

/** Passwords change, tokens expire and the store of secrets is away, while real servers ask for them. */

const signal = new AbortController().signal
/** Servers are started again, and the tools of Kafka are programs of Java. */
const timeout = 180_000
const everything = { depth: 12, showHidden: true, maxArrayLength: null, maxStringLength: null } as const
const open: { close(): Promise<void> }[] = []
const closing = <Thing extends { close(): Promise<void> }>(thing: Thing): Thing => {
  open.push(thing)
  return thing
}
afterEach(async () => {
  await Promise.all(open.splice(0).map((thing) => thing.close()))
})
const newName = (): string => `rotation.${randomBytes(5).toString('hex')}`

/** A store of secrets, which can be away. */
function createVault<Secret>(secret: Secret) {
  const vault = {
    secret,
    away: false,
    asked: 0,
    give: async (): Promise<Secret> => {
      vault.asked++
      if (vault.away) throw new Error('The vault at https://app:canary@vault.internal is sealed')
      return vault.secret
    },
  }
  return vault
}

async function sendUntilSent(broker: Broker, topic: string): Promise<void> {
  const message = outgoing(topic)
  for (;;) {
    const [outcome] = await broker.send([message], { signal })
    if (outcome!.status === 'sent') return
    // The test has ended.
    expect(errorOf(outcome!)!.message).not.toContain('has been closed')
  }
}

const expectOutage = (error: unknown): void => {
  expect(error).toMatchObject({ kind: 'reconnect', message: expect.stringMatching(/is asked again.*vault/) })
  expect(inspect(error, everything)).not.toContain('canary')
}

describeWith('rabbitmq', await startRabbitmq(), 'a RabbitMQ whose passwords change', ({ url, ctl }) => {
  const addUser = async (): Promise<string> => {
    const user = `u${randomBytes(4).toString('hex')}`
    await ctl('add_user', user, 'one')
    await ctl('set_permissions', user, '.*', '.*', '.*')
    return user
  }
  const as = (user: string, password: string): string =>
    Object.assign(new URL(url), { username: user, password }).href
  const make = (options: Partial<RabbitmqOptions> & Pick<RabbitmqOptions, 'url'>): Broker =>
    closing(rabbitmq({ exchange: 'rotation', ...options }))

  test(
    'goes on with the new one after its connections were cut, in both directions',
    { timeout },
    async () => {
      const user = await addUser()
      const topic = newName()
      const vault = createVault(as(user, 'one'))
      const broker = make({ url: vault.give })
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      await sendUntilSent(broker, topic)
      await inbox.until((received) => received.length === 1)

      vault.secret = as(user, 'two')
      await ctl('change_password', user, 'two')
      await ctl('close_all_user_connections', user, 'rotated').catch(() =>
        ctl('close_all_connections', 'rotated'),
      )
      await sendUntilSent(broker, topic)
      await inbox.until((received) => received.length === 2)

      // It is the password that did it.
      const [outcome] = await make({ url: as(user, 'one') }).send([outgoing(topic)], { signal })
      expect(errorOf(outcome!)).toMatchObject({
        kind: 'config',
        message: expect.stringContaining('ACCESS_REFUSED'),
      })
    },
  )

  test('takes a store of secrets that is away for an outage, and shows none', async () => {
    const user = await addUser()
    const topic = newName()
    const vault = createVault(as(user, 'one'))
    vault.away = true
    const broker = make({ url: vault.give })
    const troubles: unknown[] = []
    const inbox = collector()
    const subscribed = subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) =>
      troubles.push(error),
    )
    await broker.probe!()
    const [outcome] = await broker.send([outgoing(topic)], { signal })
    expect(outcome!.status).toBe('failed')
    expectOutage(errorOf(outcome!))
    await subscribed
    expectOutage(troubles[0])

    vault.away = false
    await expect
      .poll(async () => statuses(await broker.send([outgoing(topic)], { signal })))
      .toEqual(['sent'])
    await inbox.until((received) => received.length === 1)
  })

  test.each<[string, () => unknown, string]>([
    ['nothing', () => undefined, 'url must be'],
    ['another scheme', () => 'http://me:canary@localhost', 'url must be'],
    ['a password in the clear', () => 'amqp://me:canary@rabbitmq.internal', 'insecure: true'],
  ])('says so if the function gives %s', async (_, give, says) => {
    const broker = make({ url: give as () => string })
    const [outcome] = await broker.send([outgoing(newName())], { signal })
    expect(errorOf(outcome!)).toMatchObject({ kind: 'config', message: expect.stringContaining(says) })
    expect(inspect(outcome, everything)).not.toContain('canary')
    await expect(broker.probe!()).rejects.toMatchObject({ kind: 'config' })
  })

  test('waits no longer for a function than for a server', async () => {
    const broker = make({ url: () => new Promise<string>(() => {}), sendTimeoutMs: 200 })
    const troubles: unknown[] = []
    await subscribe(
      broker,
      'billing',
      [newName()],
      async () => {},
      10,
      (error) => troubles.push(error),
    )
    expect(troubles[0]).toMatchObject({
      kind: 'reconnect',
      message: expect.stringContaining('within 200 ms'),
    })
  })
})

const tokenKey = randomBytes(32).toString('hex')

describeWith(
  'rabbitmq',
  await startRabbitmq(undefined, tokenKey),
  'a RabbitMQ whose tokens expire',
  ({ url }) => {
    /** Good until so many seconds from now. */
    const token = (seconds: number): string => {
      const claims = {
        sub: 'app',
        aud: ['rabbitmq'],
        exp: Math.floor(Date.now() / 1000) + seconds,
        scope: ['configure', 'write', 'read'].map((right) => `rabbitmq.${right}:*/*/*`),
      }
      const [head, body] = [{ alg: 'HS256', typ: 'JWT', kid: 'test' }, claims].map((part) =>
        Buffer.from(JSON.stringify(part)).toString('base64url'),
      )
      return `${head}.${body}.${createHmac('sha256', tokenKey).update(`${head}.${body}`).digest('base64url')}`
    }
    const by = (password: string): string => Object.assign(new URL(url), { username: 'app', password }).href
    const receive = async (give: () => string, renewMs: number) => {
      const broker = closing(rabbitmq({ url: give, renewMs, exchange: 'expiring' }))
      const [topic, inbox] = [newName(), collector()]
      const told: string[] = []
      await broker.subscribe(
        {
          consumer: topic,
          topics: [topic],
          batchSize: 10,
          onReceiving: () => void told.push('receiving'),
          onTrouble: ({ message }) => void told.push(message),
        },
        inbox.onBatch,
      )
      await sendUntilSent(broker, topic)
      return { broker, topic, inbox, told }
    }

    test('hands the new one to the connection that is open', async () => {
      const soon = token(20)
      let current = soon
      const renewed = await receive(() => by(current), 1000)
      current = token(600)
      // Nobody asks for another one: so it is known when the first has expired.
      const left = await receive(() => by(soon), 86_400_000)
      let outcome: SendOutcome
      do outcome = (await left.broker.send([outgoing(left.topic)], { signal }))[0]!
      while (outcome.status === 'sent')

      expect(await renewed.broker.send([outgoing(renewed.topic)], { signal })).toEqual([{ status: 'sent' }])
      await renewed.inbox.until((received) => received.length >= 2)
      expect(renewed.told).toEqual(['receiving'])
      expect(inspect([outcome, left.told], everything)).not.toContain(soon)
    })
  },
)

describeWith('kafka', await startSaslKafka(), 'a Kafka whose passwords change', (server) => {
  const { saslAddress, setPassword, nodes } = server
  const make = (options: Partial<KafkaOptions>): Broker =>
    closing(
      kafka({
        brokers: [saslAddress],
        topology: 'declare',
        partitions: 1,
        sessionTimeoutMs: 2000,
        ...options,
      }),
    )

  test('goes on with the new one when it has to sign in again, in both directions', { timeout }, async () => {
    const user = `u${randomBytes(4).toString('hex')}`
    await setPassword(user, 'one')
    const topic = newName()
    const scram = (password: string) => ({ mechanism: 'scram-sha-512', username: user, password }) as const
    const vault = createVault(scram('one'))
    const broker = make({ sasl: vault.give })
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    await sendUntilSent(broker, topic)
    await inbox.until((received) => received.length >= 1)

    vault.secret = scram('two')
    await setPassword(user, 'two')
    // That cuts every connection.
    await nodes[0]!.kill()
    await nodes[0]!.start()
    await sendUntilSent(broker, topic)
    await inbox.until((received) => new Set(received.map(({ position }) => position)).size >= 2)

    const [outcome] = await make({ sasl: scram('one') }).send([outgoing(topic)], { signal })
    expect(errorOf(outcome!)).toMatchObject({ kind: 'config', message: expect.stringMatching(/SASL/i) })
  })

  test('asks for a token at each sign-in', { timeout }, async () => {
    const unsigned = (claims: object): string =>
      [{ alg: 'none' }, claims]
        .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
        .join('.') + '.'
    const now = (): number => Math.floor(Date.now() / 1000)
    const vault = createVault({ value: unsigned({ sub: 'app', iat: now(), exp: now() + 600 }) })
    const topic = newName()
    const broker = make({ sasl: { mechanism: 'oauthbearer', oauthBearerProvider: vault.give } })
    await sendUntilSent(broker, topic)
    const before = vault.asked
    await nodes[0]!.kill()
    await nodes[0]!.start()
    await sendUntilSent(broker, topic)
    expect(vault.asked).toBeGreaterThan(before)

    // It is the token that lets it in.
    vault.secret = { value: unsigned({ sub: 'app', iat: now() - 700, exp: now() - 600 }) }
    const late = make({ sasl: { mechanism: 'oauthbearer', oauthBearerProvider: vault.give } })
    const [outcome] = await late.send([outgoing(topic)], { signal })
    expect(outcome!.status).toBe('failed')
  })

  test('takes a store of secrets that is away for an outage, and shows none', async () => {
    const topic = newName()
    const vault = createVault({ mechanism: 'plain', username: 'app', password: 'one' } as const)
    vault.away = true
    const broker = make({ sasl: vault.give })
    await broker.probe!()
    const troubles: unknown[] = []
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))
    expectOutage(troubles[0])
    const [outcome] = await broker.send([outgoing(topic)], { signal })
    expect(outcome!.status).toBe('failed')
    expectOutage(errorOf(outcome!))

    vault.away = false
    await sendUntilSent(broker, topic)
    await inbox.until((received) => received.length >= 1)
  })

  test('a store that goes away under a client that is open is an outage too', { timeout }, async () => {
    const topic = newName()
    const vault = createVault({ mechanism: 'plain', username: 'app', password: 'one' } as const)
    const broker = make({ sasl: vault.give, sendTimeoutMs: 3000 })
    await sendUntilSent(broker, topic)
    vault.away = true
    await nodes[0]!.kill()
    await nodes[0]!.start()
    let outcome: SendOutcome
    do outcome = (await broker.send([outgoing(topic)], { signal }))[0]!
    while (!/asked again/.test(errorOf(outcome)?.message ?? ''))
    expectOutage(errorOf(outcome))
    vault.away = false
    await sendUntilSent(broker, topic)
    expect(outcome.status).not.toBe('sent')
  })

  test.each<[string, () => unknown, string]>([
    ['nothing', () => undefined, 'sasl must be'],
    ['no mechanism', () => ({ username: 'app', password: 'canary' }), 'sasl must be'],
  ])('says so if the function gives %s', async (_, give, says) => {
    const broker = make({ sasl: give as KafkaOptions['sasl'] })
    const [outcome] = await broker.send([outgoing(newName())], { signal })
    expect(errorOf(outcome!)).toMatchObject({ kind: 'config', message: expect.stringContaining(says) })
    expect(inspect(outcome, everything)).not.toContain('canary')
    await expect(broker.probe!()).rejects.toMatchObject({ kind: 'config' })
  })

  test('says so if the function gives a password for the clear', async () => {
    const broker = closing(
      kafka({
        brokers: ['kafka.internal:9092'],
        sasl: () => ({ mechanism: 'plain', username: 'app', password: 'canary' }),
      }),
    )
    await expect(broker.probe!()).rejects.toMatchObject({
      kind: 'config',
      message: expect.stringContaining('insecure: true'),
    })
  })
})

describe('a Postgres whose passwords change', async () => {
  const server = await startEmbeddedServer()
  const { hostname: host, port, pathname } = new URL(server.url)
  const admin = new pg.Pool({ connectionString: server.url, max: 2 })
  admin.on('error', () => {})
  afterAll(async () => {
    await admin.end()
    await server.stop()
  })
  const user = 'app'
  await admin.query(`create role ${user} superuser login password 'one'`)
  const rotate = async (password: string): Promise<void> => {
    await admin.query(`alter role ${user} password '${password}'`)
    await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where usename = $1', [user])
  }
  const one = (give: () => Promise<string>): pg.PoolConfig => ({
    ...{ host, port: Number(port), user, database: pathname.slice(1), password: give },
  })
  const beside = (give: () => Promise<string>): pg.PoolConfig => ({
    connectionString: `postgres://${user}@${host}:${port}${pathname}`,
    password: give,
  })
  const several = (give: () => Promise<string>): pg.PoolConfig => ({
    connectionString: `postgres://${user}@127.0.0.1:1,${host}:${port}${pathname}`,
    password: give,
  })

  test.each([
    ['one host', one],
    ['a URL with the function beside it', beside],
    ['several hosts', several],
  ])('%s: workers and broker go on with the new one', async (_, config) => {
    await rotate('one')
    const vault = createVault('one')
    const schema = `s${randomBytes(4).toString('hex')}`
    const database = config(vault.give)
    await migrate(database, { schema })
    const events = recordEvents()
    const broker = postgres({ database, schema })
    const shared = { database, schema, broker, onEvent: events.onEvent }
    const receiver = createReceiver({ ...shared, consumer: 'billing', topics: ['#'] })
    const relay = createRelay(shared)
    const outbox = createOutbox({ schema })
    const publish = (): Promise<unknown> =>
      withTransaction(admin, (client) => outbox.publish(client, { topic: 'order.placed', payload: 1 }))
    try {
      await receiver.start()
      await relay.start()
      await publish()
      await events.next('sent')

      vault.secret = 'two'
      await rotate('two')
      await publish()
      await events.next('sent', () => true, 2)

      // Now the store is away when it is asked. Whether an outage is told of by its error, or by that of the connection that was cut
      // before, is a matter of who is first.
      vault.away = true
      const asked = vault.asked
      await rotate('two')
      await expect.poll(() => vault.asked, { timeout: 30_000 }).toBeGreaterThan(asked + 2)
      await events.next('database_down')
      expect(inspect(events.all, everything)).not.toContain('canary')
      vault.away = false
      await publish()
      await events.next('sent', () => true, 3)
    } finally {
      await relay.stop()
      await receiver.stop()
      await broker.close()
      await admin.query(`drop schema ${schema} cascade`)
    }
  })

  const sockets = (): number =>
    process.getActiveResourcesInfo().filter((resource) => resource === 'TCPSocketWrap').length

  test.each([
    ['throws', () => Promise.reject(new Error('sealed'))],
    ['gives no text', async () => undefined as unknown as string],
  ])('a function that %s leaves no connection behind', async (_, give) => {
    await admin.query('select 1')
    const before = sockets()
    const database = closing(new Database(one(give)))
    for (let times = 0; times < 5; times++) {
      await expect(database.query(planned({}, 'select 1'))).rejects.toMatchObject({
        code: '08001',
        message: expect.stringMatching(/^The function password of the database failed, and is asked again: /),
      })
    }
    await expect.poll(sockets).toBeLessThanOrEqual(before)
  })
})
