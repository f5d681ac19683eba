import { Partitioners } from 'kafkajs'
import { describe, expect, it } from 'vitest'
import { classify, kafka } from '../../../src/brokers/kafka/kafka.ts'
import { loadKafkajs } from '../../../src/brokers/kafka/client.ts'
import { splitBySize, toOutgoing } from '../../../src/brokers/kafka/outgoing.ts'
import { checkOptions } from '../../../src/brokers/kafka/options.ts'
import { pinnedPartitioner } from '../../../src/brokers/kafka/producer.ts'
import { BrokerError, OptionError } from '../../../src/base/errors.ts'
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
      ...{ clientId: 'twinbox', source: 'twinbox', ssl: false, sasl: null, topology: 'check' },
      ...{ insecure: false, maxNewTopics: 100 },
      ...{ partitions: 6, replicationFactor: -1, unroutable: 'fail', sendTimeoutMs: 10_000 },
      ...{ maxRequestBytes: 900_000, sessionTimeoutMs: 10_000, topicRefreshMs: 30_000 },
    })
    expect(checkOptions({ brokers }).groupId('billing')).toBe('twinbox.billing')
  })
})

describe('the partitioner', () => {
  it('goes by murmur2 as the Java client does', async () => {
    const choose = (await pinnedPartitioner())()
    const partitionMetadata = Array.from({ length: 1000 }, (_, partitionId) => ({
      ...{ partitionErrorCode: 0, partitionId, leader: 1, replicas: [1], isr: [1] },
    }))
    // From UtilsTest of Apache Kafka.
    const vectors: Readonly<Record<string, number>> = {
      '21': -973932308,
      foobar: -790332482,
      'a-little-bit-long-string': -985981536,
      'a-little-bit-longer-string': -1486304829,
      lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8: -58897971,
    }
    for (const [key, hash] of Object.entries(vectors)) {
      const message = { key, value: null }
      expect(choose({ topic: 't', partitionMetadata, message })).toBe((hash & 0x7fffffff) % 1000)
      // An attempt that is split keeps every message in the partition that it had.
      expect(message).toMatchObject({ partition: (hash & 0x7fffffff) % 1000 })
    }
    // The vectors tell it from the other one that kafkajs has.
    const legacy = Partitioners.LegacyPartitioner()
    const chosen = legacy({ topic: 't', partitionMetadata, message: { key: 'foobar', value: null } })
    expect(chosen).not.toBe((vectors['foobar']! & 0x7fffffff) % 1000)
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
    [new Error('anything'), 'reconnect'],
    ['not even an error', 'reconnect'],
  ])('reads %s as %s', (error, kind) => {
    expect(classify(error)).toBe(kind)
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
