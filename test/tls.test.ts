import { execFile } from 'node:child_process'
import { chmod, copyFile, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, describe, expect, test } from 'vitest'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { rabbitmq } from '../src/brokers/rabbitmq/rabbitmq.ts'
import { kafka } from '../src/brokers/kafka/kafka.ts'
import { embeddedServer, freePort } from '../proof/stage/postgres.ts'
import { createRelay, migrate, type SendOutcome } from '../src/index.ts'
import { sentence } from '../src/observe/logging.ts'
import { makeCertificate } from './support/certificates.ts'
import { startTlsKafka } from './support/kafka.ts'
import { startRabbitmq } from './support/servers/rabbitmq.ts'
import { describeWith, isMissing } from './support/require.ts'
import { outgoing } from './support/messages.ts'

const refusals = [
  {
    name: 'a certificate of another authority',
    host: 'localhost',
    ca: 'otherCa',
    plainServer: false,
    says: /certificate|self.signed/i,
  },
  {
    name: "a certificate for another host's name",
    host: '127.0.0.1',
    ca: 'ca',
    plainServer: false,
    says: /altnames|IP: 127\.0\.0\.1/,
  },
  { name: 'a server without TLS', host: 'localhost', ca: 'ca', plainServer: true, says: /SSL|TLS/ },
] as const

const message = outgoing('tls')

/** Real servers that speak TLS, with a certificate for `localhost` by an authority of the test's own. */
const certificate = await makeCertificate()
afterAll(async () => {
  if (!isMissing(certificate)) await certificate.remove()
})

describeWith('openssl', certificate, 'TLS', (tls) => {
  describe('to Postgres', () => {
    const folder = mkdtemp(join(tmpdir(), 'twinbox-tls-postgres-'))
    const server = folder.then(async (path) => {
      const port = await freePort()
      const key = join(path, 'server.key')
      await copyFile(tls.key, key)
      await chmod(key, 0o600)
      const { server: embedded } = await embeddedServer({
        folder: join(path, 'data'),
        port,
        settings: ['ssl=on', `ssl_cert_file=${tls.certificate}`, `ssl_key_file=${key}`],
      })
      await embedded.initialise()
      // It runs as this user, and takes no key that others could read.
      if (process.getuid?.() === 0) await promisify(execFile)('chown', ['postgres', key])
      await embedded.start()
      return { port, stop: () => embedded.stop() }
    })
    const plain = folder.then(async (path) => {
      const port = await freePort()
      const { server: embedded } = await embeddedServer({ folder: join(path, 'plain'), port })
      await embedded.initialise()
      await embedded.start()
      return { port, stop: () => embedded.stop() }
    })
    server.catch(() => {})
    plain.catch(() => {})
    afterAll(async () => {
      for (const started of [server, plain]) await (await started).stop()
      await rm(await folder, { recursive: true, force: true, maxRetries: 5 })
    })
    const urlOf = (host: string, port: number, ca: string): string =>
      `postgres://postgres:postgres@${host}:${port}/postgres?sslmode=verify-full&sslrootcert=${encodeURIComponent(ca)}`

    test('everything of a worker goes through it', async () => {
      const { port } = await server
      const url = urlOf('localhost', port, tls.ca)
      await migrate(url)
      const broker = postgres({ database: url })
      const relay = createRelay({ database: url, broker })
      await relay.start()
      try {
        const { default: pg } = await import('pg')
        const client = new pg.Client({ connectionString: url })
        await client.connect()
        // One that is still signing in is listed without a user, and without its encryption, since Postgres 18.
        const { rows } = await client.query<{ application: string; ssl: boolean }>(
          `select a.application_name as application, s.ssl from pg_stat_activity as a join pg_stat_ssl as s using (pid)
          where a.backend_type = 'client backend' and a.usesysid is not null`,
        )
        await client.end()
        expect(rows.filter(({ application }) => application.includes('twinbox')).length).toBeGreaterThan(1)
        expect(rows.filter(({ ssl }) => !ssl)).toEqual([])
      } finally {
        await relay.stop()
        await broker.close()
      }
    })

    test.each(refusals)('$name is refused, and said', async ({ host, ca, says, plainServer }) => {
      const { port } = await (plainServer ? plain : server)
      const error: unknown = await migrate(urlOf(host, port, tls[ca])).then(
        () => null,
        (thrown: unknown) => thrown,
      )
      expect(error).toBeInstanceOf(Error)
      expect(sentence(error)).toMatch(says)
      expect(sentence(error)).not.toContain('postgres:postgres')
    })
  })

  describe('to RabbitMQ', async () => {
    const server = await startRabbitmq(tls)
    describeWith('rabbitmq', server, 'with a certificate', ({ tlsPort, url }) => {
      const send = async (host: string, port: number, ca: string): Promise<SendOutcome> => {
        const broker = rabbitmq({
          url: `amqps://guest:guest@${host}:${port}`,
          socket: { ca: [await readFile(ca)] },
          exchange: 'twinbox.tls',
          unroutable: 'drop',
          sendTimeoutMs: 5000,
        })
        try {
          const [outcome] = await broker.send([message], { signal: new AbortController().signal })
          return outcome!
        } finally {
          await broker.close()
        }
      }

      test('is sent through it', async () => {
        expect(await send('localhost', tlsPort, tls.ca)).toEqual({ status: 'sent' })
      })

      test.each(refusals)('$name is refused, and said', async ({ host, ca, says, plainServer }) => {
        const port = plainServer ? Number(new URL(url).port) : tlsPort
        const outcome = await send(host, port, tls[ca])
        expect(outcome.status).toBe('failed')
        const said = sentence('error' in outcome ? outcome.error : null)
        expect(said).toMatch(says)
        expect(said).not.toContain('guest:guest')
      })
    })
  })

  describe('to Kafka', async () => {
    const server = await startTlsKafka(tls)
    describeWith('kafka', server, 'with a certificate', ({ tlsAddress, brokers }) => {
      const send = async (address: string, ca: string): Promise<SendOutcome> => {
        const broker = kafka({
          brokers: [address],
          ssl: { ca: [await readFile(ca)] },
          sendTimeoutMs: 5000,
          topology: 'declare',
          partitions: 1,
        })
        try {
          const [outcome] = await broker.send([message], { signal: new AbortController().signal })
          return outcome!
        } finally {
          await broker.close()
        }
      }

      test('is sent through it', async () => {
        let outcome = await send(tlsAddress, tls.ca)
        // The topic is new.
        while (outcome.status !== 'sent') outcome = await send(tlsAddress, tls.ca)
        expect(outcome).toEqual({ status: 'sent' })
      })

      test.each(refusals)('$name is refused, and said', async ({ host, ca, says, plainServer }) => {
        const port = (plainServer ? brokers[0]! : tlsAddress).split(':')[1]!
        const outcome = await send(`${host}:${port}`, tls[ca])
        expect(outcome.status).toBe('failed')
        expect(sentence('error' in outcome ? outcome.error : null)).toMatch(says)
      })
    })
  })
})
