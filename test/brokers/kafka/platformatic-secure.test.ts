import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { afterAll, afterEach, expect, test } from 'vitest'
import type { Broker } from '../../../src/brokers/broker.ts'
import { kafka, type KafkaOptions } from '../../../src/brokers/kafka/kafka.ts'
import { makeCertificate } from '../../support/certificates.ts'
import { startSaslKafka, startTlsKafka } from '../../support/kafka.ts'
import { findPlatformatic, platformatic } from '../../support/platformatic.ts'
import { describeWith, isMissing } from '../../support/require.ts'
import { collector, errorOf, outgoing, sendAll, subscribe } from '../contract.ts'
import { never } from './fixture.ts'

/** How the second client library signs in, and looks at certificates. */
const usable = await findPlatformatic()
const found = isMissing(usable) ? usable : await startSaslKafka()

describeWith(platformatic, found, 'a Kafka with passwords', ({ saslAddress, setPassword }) => {
  const brokers: Broker[] = []
  const make = (sasl: KafkaOptions['sasl']): Broker => {
    const options = { brokers: [saslAddress], topology: 'declare', partitions: 1, sasl } as const
    const broker = kafka({ ...options, client: platformatic })
    brokers.push(broker)
    return broker
  }
  afterEach(async () => {
    await Promise.all(brokers.splice(0).map((broker) => broker.close()))
  })
  const newName = (): string => `test.${randomBytes(6).toString('hex')}`
  const unsigned = (): string => {
    const part = (content: object): string => Buffer.from(JSON.stringify(content)).toString('base64url')
    const now = Math.floor(Date.now() / 1000)
    return `${part({ alg: 'none' })}.${part({ sub: 'app', iat: now, exp: now + 600 })}.`
  }

  test.each<[string, () => Promise<KafkaOptions['sasl']>]>([
    ['PLAIN', async () => ({ mechanism: 'plain', username: 'app', password: 'one' })],
    [
      'SCRAM, asked for the password each time',
      async () => {
        const username = newName()
        await setPassword(username, 'one')
        return () => ({ mechanism: 'scram-sha-512', username, password: 'one' })
      },
    ],
    [
      'OAUTHBEARER',
      async () => ({ mechanism: 'oauthbearer', oauthBearerProvider: async () => ({ value: unsigned() }) }),
    ],
  ])('signs in by %s, in both directions', async (_, give) => {
    const topic = newName()
    const broker = make(await give())
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    const message = outgoing(topic)
    await sendAll(broker, [message])
    await inbox.untilIds(1)
    expect(inbox.firstIds()).toEqual([message.id])
  })

  test('says that a password is refused before a worker starts, and does not show it', async () => {
    const broker = make({ mechanism: 'plain', username: 'app', password: 'hunter2' })
    const probing = broker.probe!()
    await expect(probing).rejects.toMatchObject({ kind: 'config' })
    await expect(probing).rejects.not.toThrow(/hunter2/)
    const [outcome] = await broker.send([outgoing(newName())], { signal: never })
    expect(outcome).toMatchObject({ status: 'failed', error: { kind: 'config' } })
    expect(errorOf(outcome!)!.message).not.toContain('hunter2')
  })

  test('waits for a function that fails', async () => {
    let secret: string | null = null
    const broker = make(() => {
      if (secret === null) throw new Error('The vault is sealed.')
      return { mechanism: 'plain', username: 'app', password: secret }
    })
    const message = outgoing(newName())
    expect((await broker.send([message], { signal: never }))[0]).toMatchObject({
      ...{ status: 'failed', error: { kind: 'reconnect' } },
    })
    secret = 'one'
    await sendAll(broker, [message])
  })
})

const certificate = isMissing(usable) ? usable : await makeCertificate()
afterAll(async () => {
  if ('remove' in certificate) await certificate.remove()
})
const encrypted = isMissing(certificate) ? certificate : await startTlsKafka(certificate)

describeWith(platformatic, encrypted, 'a Kafka with a certificate', ({ tlsAddress }) => {
  const send = async (address: string, ssl: KafkaOptions['ssl']) => {
    const options = {
      brokers: [address],
      topology: 'declare',
      partitions: 1,
      sendTimeoutMs: 5000,
      ssl,
    } as const
    const broker = kafka({ ...options, client: platformatic })
    try {
      return (await broker.send([outgoing('test.tls')], { signal: never }))[0]!
    } finally {
      await broker.close()
    }
  }
  const { ca } = certificate as Exclude<typeof certificate, { readonly missing: string }>

  test('is sent to through it, and not to one that it does not name, nor signed by a stranger', async () => {
    const trusted = { ca: [await readFile(ca)] }
    await expect.poll(() => send(tlsAddress, trusted), { timeout: 20_000 }).toEqual({ status: 'sent' })
    const port = tlsAddress.split(':')[1]!
    for (const [address, ssl, says] of [
      [`127.0.0.1:${port}`, trusted, /ERR_TLS_CERT_ALTNAME_INVALID|altnames/],
      [tlsAddress, true, /self.signed|unable to (get|verify)|SELF_SIGNED|UNABLE_TO/i],
    ] as const) {
      const outcome = await send(address, ssl)
      expect(outcome).toMatchObject({ status: 'failed', error: { kind: 'config' } })
      expect(String(errorOf(outcome))).toMatch(says)
    }
  })
})
