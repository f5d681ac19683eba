import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type * as Kafkajs from 'kafkajs'
import type { ISocketFactory, Kafka } from 'kafkajs'
import { atMost } from '../../../base/waiting.ts'
import { missingPeer } from '../../peer.ts'
import { placeOf, type Admin, type Client, type Library, type Producer, type Refusal } from '../client.ts'
import { hostsOf, shuffled, type Settings } from '../options.ts'
import { groupBy } from '../outgoing.ts'
import { createChooser } from '../partitions.ts'
import { guard, type Guarding } from './guard.ts'
import { createMember } from './member.ts'
import { signingIn } from './signing.ts'

const connectTimeoutMs = 3000
const keepAliveMs = 5000
const disconnectTimeoutMs = 2000

/**
 * @param load in place of the library
 * @throws BrokerError if it is not installed
 */
export async function loadKafkajs(load?: () => Promise<typeof Kafkajs>): Promise<typeof Kafkajs> {
  try {
    return load === undefined ? await import('kafkajs') : await load()
  } catch (cause) {
    throw missingPeer('kafkajs', cause)
  }
}

export const kafkajs: Library = {
  peer: 'kafkajs',
  open: openKafkajs,
}

async function openKafkajs(settings: Settings, requestTimeoutMs: number): Promise<Client> {
  const library = await loadKafkajs()
  const { Kafka: Instance, logLevel } = library
  const { sasl, checkHost } = await signingIn(settings.sasl, hostsOf(settings.brokers), settings)
  const sockets = new Set<Socket>()
  let retired = false
  let guarding: Guarding | null = null
  const socketFactory: ISocketFactory = ({ host, port, ssl, onConnect }) => {
    if (retired) throw new Error('This client has been retired.')
    // The brokers that we know name others, which may be elsewhere.
    checkHost(host)
    const servername = isIP(host) ? {} : { servername: host }
    // kafkajs hands on what it was given, `true` for plain TLS included, whatever its types say.
    const socket = ssl
      ? connectTls({ host, port, ...servername, ...ssl }, onConnect)
      : connectTcp({ host, port }, onConnect)
    sockets.add(socket)
    socket.setNoDelay(true).setKeepAlive(true, keepAliveMs)
    socket.once('close', () => sockets.delete(socket))
    return guarding === null ? socket : guard(socket, guarding)
  }
  const kafka = new Instance({
    clientId: settings.clientId,
    brokers: shuffled(settings.brokers),
    ssl: settings.ssl,
    ...(sasl === undefined ? {} : { sasl }),
    connectionTimeout: Math.min(connectTimeoutMs, requestTimeoutMs),
    requestTimeout: requestTimeoutMs,
    retry: { retries: settings.brokers.length + 2, initialRetryTime: 50, maxRetryTime: 500 },
    socketFactory,
    logLevel: logLevel.NOTHING,
    logCreator: () => () => {},
  })
  return {
    withAdmin: (work) => withAdmin(kafka, work),
    openProducer: () => openProducer(kafka, settings.sendTimeoutMs),
    member: (reading) => {
      const known = { metadataVersion: null, lost: new Map<string, bigint>() }
      // A namespace of an ES module lacks it; and it is looked up late, since users register codecs when they like.
      guarding = { reading, codecs: library.default.CompressionCodecs, known }
      return createMember(kafka, settings, reading, known)
    },
    // `disconnect` of kafkajs is not that: it waits for what a frozen broker never answers, and a `send` under way connects again
    // behind our back and writes its batch late.
    retire: () => {
      retired = true
      for (const socket of sockets) socket.destroy(new Error('This client has been retired.'))
    },
  }
}

async function withAdmin<T>(kafka: Kafka, work: (admin: Admin) => Promise<T>): Promise<T> {
  const admin = kafka.admin()
  try {
    await admin.connect()
    return await work({
      topics: () => admin.listTopics(),
      create: async (names, { partitions: numPartitions, replicationFactor, sendTimeoutMs: timeout }) => {
        const topics = names.map((topic) => ({ topic, numPartitions, replicationFactor }))
        try {
          // Waiting for leaders, kafkajs fails at once if the broker that it asks has not heard of the topic yet.
          await admin.createTopics({ topics, timeout, waitForLeaders: false })
          return []
        } catch (error) {
          // The broker is at fault, and with it every topic; unless it named some.
          const named = refusalsOf(error)
          if (named === null) throw error
          return named
        }
      },
      remove: (topics) => admin.deleteTopics({ topics: [...topics] }),
      brokers: async () => (await admin.describeCluster()).brokers,
      removeGroups: async (groupIds) => void (await admin.deleteGroups([...groupIds])),
      committed: async (groupId, topics) => {
        const found = await admin.fetchOffsets({ groupId, topics: [...topics] })
        const places = found.flatMap(({ topic, partitions }) =>
          partitions.map(
            ({ partition, offset, metadata: note }) =>
              [placeOf(topic, partition), { offset: BigInt(offset), note }] as const,
          ),
        )
        return new Map(places.filter(([, { offset }]) => offset >= 0n))
      },
      ranges: async (topic) =>
        (await admin.fetchTopicOffsets(topic)).map(({ partition, low, high }) => ({
          ...{ partition, low: BigInt(low), high: BigInt(high) },
        })),
    })
  } finally {
    await atMost(disconnectTimeoutMs, admin.disconnect())
  }
}

/** What the broker refused of a request about several topics, one by one; null if it refused none by name. */
function refusalsOf(error: unknown): readonly Refusal[] | null {
  if (!(error instanceof Error)) return null
  const { errors, cause }: Error & { readonly errors?: unknown } = error
  if (!Array.isArray(errors)) return refusalsOf(cause)
  const named = errors.flatMap((each): Refusal[] => {
    const { topic, type }: { readonly topic?: unknown; readonly type?: unknown } = Object(each)
    return typeof topic === 'string' && typeof type === 'string' ? [{ topic, error: each }] : []
  })
  return named.length === errors.length ? named : null
}

/** kafkajs calls its idempotent producer experimental, and gets its sequence numbers out of step (tulios/kafkajs#598). */
async function openProducer(kafka: Kafka, sendTimeoutMs: number): Promise<Producer> {
  const choose = createChooser()
  const producer = kafka.producer({
    createPartitioner:
      () =>
      ({ topic, message, partitionMetadata }) => {
        if (message.partition !== undefined) return message.partition
        const led = partitionMetadata
          .filter(({ leader }) => leader >= 0)
          .map(({ partitionId }) => partitionId)
        const key = message.key?.toString() ?? null
        return (message.partition = choose(topic, key, { count: partitionMetadata.length, led }))
      },
    allowAutoTopicCreation: false,
    idempotent: false,
    // Its own retries would hide whether an earlier one may have arrived, and go on after we have given up.
    retry: { retries: 0 },
  })
  await producer.connect()
  return {
    write: async (batch) => {
      const byTopic = groupBy(batch, ({ topic }) => topic)
      await producer.sendBatch({
        acks: -1,
        // The broker gives up on its replicas a little earlier than we on the broker: then we know why.
        timeout: Math.ceil(sendTimeoutMs * 0.8),
        topicMessages: [...byTopic].map(([topic, messages]) => ({
          topic,
          messages: messages.map(({ record }) => record),
        })),
      })
    },
    close: () => atMost(disconnectTimeoutMs, producer.disconnect()),
  }
}
