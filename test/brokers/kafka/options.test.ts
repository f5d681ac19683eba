import fc from 'fast-check'
import { Partitioners } from 'kafkajs'
import { describe, expect, it } from 'vitest'
import { classify, kafka } from '../../../src/brokers/kafka/kafka.ts'
import { loadKafkajs } from '../../../src/brokers/kafka/kafkajs/kafkajs.ts'
import { splitBySize, toOutgoing } from '../../../src/brokers/kafka/outgoing.ts'
import { checkOptions } from '../../../src/brokers/kafka/options.ts'
import { loadPlatformatic } from '../../../src/brokers/kafka/platformatic/platformatic.ts'
import { createChooser, murmur2 } from '../../../src/brokers/kafka/partitions.ts'
import { BrokerError, OptionError } from '../../../src/base/errors.ts'
import { readUrl } from '../../../src/brokers/kafka/url.ts'
import { findPlatformatic } from '../../support/platformatic.ts'
import { outgoing } from '../contract.ts'

/** What needs no server. */

const brokers = ['localhost:9092']
const elsewhere = ['kafka.internal:9092']
const plain = { mechanism: 'plain', username: 'user', password: 'hunter2' } as const

describe('the options of kafka()', () => {
  it.each<[string, object]>([
    ['brokers', {}],
    ['brokers', { brokers: [] }],
    ['brokers', { brokers: 'localhost:9092' }],
    ['brokers', { brokers: ['localhost'] }],
    ['brokers', { brokers: ['kafka://localhost:9092'] }],
    ['client', { brokers, client: 'confluent' }],
    ['client', { brokers, client: '@platformatic/kafka' }],
    ['sasl', { brokers, client: 'platformatic', sasl: { ...plain, mechanism: 'aws' } }],
    ['clientId', { brokers, clientId: 'a b' }],
    ['source', { brokers, source: '' }],
    ['ssl', { brokers, ssl: 'yes' }],
    ['sasl', { brokers, sasl: 'plain' }],
    ['sasl', { brokers, sasl: {} }],
    ['sasl', { brokers: elsewhere, sasl: plain }],
    ['sasl', { brokers: elsewhere, sasl: plain, ssl: false }],
    ['insecure', { brokers, insecure: 1 }],
    ['topic', { brokers, topic: 'orders' }],
    ['groupId', { brokers, groupId: 'billing' }],
    ['topology', { brokers, topology: 'create' }],
    ['maxNewTopics', { brokers, maxNewTopics: 0 }],
    ['partitions', { brokers, partitions: 0 }],
    ['replicationFactor', { brokers, replicationFactor: 0 }],
    ['unroutable', { brokers, unroutable: 'ignore' }],
    ['sendTimeoutMs', { brokers, sendTimeoutMs: 1.5 }],
    ['maxRequestBytes', { brokers, maxRequestBytes: '1MB' }],
    ['sessionTimeoutMs', { brokers, sessionTimeoutMs: 499 }],
    ['topicRefreshMs', { brokers, topicRefreshMs: Number.NaN }],
    ['acks', { brokers, acks: 1 }],
    ['idempotent', { brokers, idempotent: true }],
  ])('refuses a bad %s: %j', (option, options) => {
    // @ts-expect-error: that is the point
    const make = (): unknown => kafka(options)
    expect(make).toThrow(OptionError)
    expect(make).toThrow(expect.objectContaining({ option, code: 'INVALID_OPTION' }))
    expect(make).not.toThrow(/hunter2/)
  })

  it('takes secrets with TLS, with SCRAM, or when told that it does not matter', () => {
    const scram = { ...plain, mechanism: 'scram-sha-512' } as const
    for (const options of [
      { sasl: plain, ssl: true },
      { sasl: plain, ssl: { ca: 'certificate' } },
      { sasl: scram },
      { sasl: plain, insecure: true },
    ]) {
      expect(kafka({ brokers: elsewhere, ...options }).name).toBe('kafka')
    }
  })

  it('has the documented defaults', () => {
    expect(checkOptions({ brokers })).toMatchObject({
      ...{
        client: 'kafkajs',
        clientId: 'twinbox',
        source: 'twinbox',
        ssl: false,
        sasl: null,
        topology: 'check',
      },
      ...{ insecure: false, maxNewTopics: 100 },
      ...{ partitions: 6, replicationFactor: -1, unroutable: 'fail', sendTimeoutMs: 10_000 },
      ...{ maxRequestBytes: 900_000, sessionTimeoutMs: 10_000, topicRefreshMs: 30_000 },
    })
    expect(checkOptions({ brokers }).groupId('billing')).toBe('twinbox.billing')
  })
})

describe('the choice of a partition', () => {
  const led = (count: number): number[] => Array.from({ length: count }, (_, partition) => partition)

  it('goes by murmur2 as the Java client does', () => {
    const choose = createChooser()
    // From UtilsTest of Apache Kafka.
    const vectors: Readonly<Record<string, number>> = {
      '21': -973932308,
      foobar: -790332482,
      'a-little-bit-long-string': -985981536,
      'a-little-bit-longer-string': -1486304829,
      lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8: -58897971,
    }
    for (const [key, hash] of Object.entries(vectors)) {
      expect(murmur2(Buffer.from(key))).toBe(hash)
      expect(choose('t', key, { count: 1000, led: led(1000) })).toBe((hash & 0x7fffffff) % 1000)
    }
    // The vectors tell it from the other one that kafkajs has.
    const partitionMetadata = led(1000).map((partitionId) => ({
      ...{ partitionErrorCode: 0, partitionId, leader: 1, replicas: [1], isr: [1] },
    }))
    const legacy = Partitioners.LegacyPartitioner()
    const chosen = legacy({ topic: 't', partitionMetadata, message: { key: 'foobar', value: null } })
    expect(chosen).not.toBe((vectors['foobar']! & 0x7fffffff) % 1000)
  })

  it('is that of kafkajs for any key', () => {
    const choose = createChooser()
    const theirs = Partitioners.DefaultPartitioner()
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.integer({ min: 1, max: 50 }), (key, count) => {
        const partitionMetadata = led(count).map((partitionId) => ({
          ...{ partitionErrorCode: 0, partitionId, leader: 1, replicas: [1], isr: [1] },
        }))
        const message = { key, value: null }
        expect(choose('t', key, { count, led: led(count) })).toBe(
          theirs({ topic: 't', partitionMetadata, message }),
        )
      }),
    )
  })

  it('takes turns for messages without a key, among partitions that have a leader', () => {
    const choose = createChooser()
    const chosen = Array.from({ length: 40 }, () => choose('t', null, { count: 5, led: [1, 3] }))
    expect(chosen.filter((partition) => partition === 1)).toHaveLength(20)
    expect(chosen.filter((partition) => partition === 3)).toHaveLength(20)
    const none = Array.from({ length: 5 }, () => choose('u', null, { count: 5, led: [] }))
    expect(new Set(none)).toEqual(new Set(led(5)))
  })
})

describe('splitBySize', () => {
  it('keeps the order, fills no chunk over the limit, and leaves a larger message alone', () => {
    const settings = checkOptions({ brokers })
    const sizes = [400, 400, 5000, 100, 100, 900, 1]
    const batch = sizes.map((size) => toOutgoing(outgoing('t', { content: 'x'.repeat(size) }), settings))
    const chunks = splitBySize(batch, 1500)

    expect(chunks.flat()).toEqual(batch)
    const filled = chunks.filter((chunk) => chunk.length > 1)
    for (const chunk of filled) {
      expect(chunk.reduce((sum, message) => sum + message.bytes, 0)).toBeLessThanOrEqual(1500)
    }
    expect(chunks.some((chunk) => chunk.length === 1 && chunk[0] === batch[2])).toBe(true)
    expect(chunks.length).toBeLessThan(sizes.length)
    expect(splitBySize([], 1500)).toEqual([])
  })
})

describe('classify', () => {
  const protocol = (type: string): Error =>
    Object.assign(new Error(type), { name: 'KafkaJSProtocolError', type })
  const named = (name: string, fields = {}): Error => Object.assign(new Error('text'), { name, ...fields })
  const wrapped = (cause: Error): Error =>
    Object.assign(new Error('text', { cause }), { name: 'KafkaJSNumberOfRetriesExceeded' })

  /** Those of @platformatic/kafka. */
  const refusal = (apiId: string): Error => named('Error', { code: 'PLT_KFK_PROTOCOL', apiId })
  const several = (error: Error): Error =>
    Object.assign(new AggregateError([error], 'text'), { code: 'PLT_KFK_RESPONSE' })
  const caused = (cause: Error): Error =>
    Object.assign(new Error('text', { cause }), { code: 'PLT_KFK_NETWORK' })

  it.each([
    [protocol('MESSAGE_TOO_LARGE'), 'poison'],
    [wrapped(protocol('RECORD_LIST_TOO_LARGE')), 'poison'],
    [protocol('NOT_LEADER_FOR_PARTITION'), 'retry'],
    [protocol('NOT_ENOUGH_REPLICAS'), 'retry'],
    [protocol('SOMETHING_NEW'), 'retry'],
    [protocol('NOT_ENOUGH_REPLICAS_AFTER_APPEND'), 'unknown'],
    [protocol('REQUEST_TIMED_OUT'), 'unknown'],
    [wrapped(named('KafkaJSRequestTimeoutError')), 'unknown'],
    [named('KafkaJSConnectionClosedError'), 'unknown'],
    [wrapped(named('KafkaJSConnectionError', { code: 'ECONNRESET' })), 'unknown'],
    [wrapped(named('KafkaJSConnectionError', { code: 'ECONNREFUSED' })), 'reconnect'],
    [named('KafkaJSConnectionError', { code: 'CERT_HAS_EXPIRED' }), 'config'],
    [named('KafkaJSAggregateError', { errors: [protocol('POLICY_VIOLATION')] }), 'config'],
    [named('KafkaJSSASLAuthenticationError'), 'config'],
    [named('KafkaJSServerDoesNotSupportApiKey'), 'config'],
    [protocol('TOPIC_AUTHORIZATION_FAILED'), 'config'],
    [refusal('MESSAGE_TOO_LARGE'), 'poison'],
    [several(refusal('NOT_LEADER_OR_FOLLOWER')), 'retry'],
    [several(several(refusal('INVALID_TOPIC_EXCEPTION'))), 'config'],
    [named('Error', { code: 'PLT_KFK_NETWORK' }), 'unknown'],
    [several(named('Error', { code: 'PLT_KFK_NETWORK' })), 'unknown'],
    [caused(named('Error', { code: 'ECONNREFUSED' })), 'reconnect'],
    [several(caused(named('Error', { code: 'CERT_HAS_EXPIRED' }))), 'config'],
    [caused(caused(several(refusal('SASL_AUTHENTICATION_FAILED')))), 'config'],
    [named('Error', { code: 'PLT_KFK_USER' }), 'reconnect'],
    [new Error('anything'), 'reconnect'],
    ['not even an error', 'reconnect'],
  ])('reads %s as %s', (error, kind) => {
    expect(classify(error)).toBe(kind)
  })
})

describe('--url', () => {
  it('says brokers, and the options that follow', () => {
    expect(readUrl('10.0.0.5:9092')).toEqual({ brokers: ['10.0.0.5:9092'] })
    expect(
      readUrl('kafka://10.0.0.5:9092, kafka://10.0.0.6:9092?client=platformatic&topology=declare'),
    ).toEqual({
      ...{ brokers: ['10.0.0.5:9092', '10.0.0.6:9092'], client: 'platformatic', topology: 'declare' },
    })
  })

  it.each([
    ['a:1?partitions=3', /partitions behind the brokers/],
    ['a:1?client=kafkajs&client=platformatic', /client twice/],
    ['a:1?client=kafkajs?topology=check', /a second \?/],
    ['a:1?password=hunter2', /password behind the brokers/],
  ])('refuses %s', (url, why) => {
    expect(() => readUrl(url)).toThrow(OptionError)
    expect(() => readUrl(url)).toThrow(why)
    expect(() => readUrl(url)).not.toThrow(/hunter2/)
  })

  it('refuses what no option may be, by the name of the option', () => {
    expect(() => kafka(readUrl('a:1?client=librdkafka'))).toThrow(/client must be one of/)
    expect(() => kafka(readUrl('a:1?topology=make'))).toThrow(/topology must be one of/)
    expect(() => kafka(readUrl('?client=kafkajs'))).toThrow(/brokers must be a list/)
  })
})

describe('without @platformatic/kafka', () => {
  it('says what to install', async () => {
    const cause = new Error("Cannot find package '@platformatic/kafka'")
    await expect(loadPlatformatic(() => Promise.reject(cause), '24.6.0')).rejects.toMatchObject({
      ...{ kind: 'config', cause, message: expect.stringContaining('npm install @platformatic/kafka') },
    })
  })

  it.each(['20.20.2', '22.21.9', '21.0.0'])('says which Node it needs, on Node %s', async (node) => {
    let loaded = false
    const loading = loadPlatformatic(async () => {
      loaded = true
      throw new Error('It is loaded all the same.')
    }, node)
    await expect(loading).rejects.toBeInstanceOf(BrokerError)
    await expect(loading).rejects.toMatchObject({ kind: 'config', message: expect.stringContaining(node) })
    await expect(loading).rejects.toThrow(/needs Node 22\.22 or later.*client: 'kafkajs'/)
    expect(loaded).toBe(false)
  })

  it.each(['22.22.0', '22.23.5', '24.6.0', '26.0.0'])('takes Node %s', async (node) => {
    const library = {} as Awaited<ReturnType<typeof loadPlatformatic>>
    expect(await loadPlatformatic(async () => library, node)).toBe(library)
  })

  // A worker asks before it starts; on a Node that has it, there is nobody who answers, and that is no reason.
  it('is told before a worker starts', async () => {
    const broker = kafka({ brokers: ['127.0.0.1:1'], client: 'platformatic' })
    const usable = !('missing' in (await findPlatformatic()))
    const probing = broker.probe!()
    if (usable) await probing
    else await expect(probing).rejects.toMatchObject({ kind: 'config' })
    await broker.close()
  })
})

describe('without kafkajs', () => {
  it('says what to install', async () => {
    const cause = new Error("Cannot find package 'kafkajs'")
    const loading = loadKafkajs(() => Promise.reject(cause))
    await expect(loading).rejects.toBeInstanceOf(BrokerError)
    await expect(loading).rejects.toMatchObject({
      ...{ kind: 'config', cause, message: expect.stringContaining('npm install kafkajs') },
    })
  })
})
