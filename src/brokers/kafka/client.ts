import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type * as Kafkajs from 'kafkajs'
import type { Admin, ISocketFactory, Kafka } from 'kafkajs'
import { loadPeer } from '../peer.ts'
import { toTrouble } from './errors.ts'
import { guard, type GuardOptions } from './guard.ts'
import { hostsOf, type Settings } from './options.ts'
import { signingIn } from './sasl.ts'
import { atMost } from '../../base/waiting.ts'

/** A kafkajs instance that can be thrown away for good. */
export interface Client {
  readonly kafka: Kafka
  /**
   * Destroys its connections and lets it open no more. `disconnect` of kafkajs is not that: it waits for what a
   * frozen broker never answers, and a `send` under way connects again behind our back and writes its batch late.
   */
  retire(): void
}

const connectTimeoutMs = 3000
const keepAliveMs = 5000
const disconnectTimeoutMs = 2000

/** @throws BrokerError if it is not installed */
export const loadKafkajs = (
  load = (): Promise<typeof Kafkajs> => import('kafkajs'),
): Promise<typeof Kafkajs> => loadPeer('kafkajs', load)

/**
 * @param requestTimeoutMs how long one request may take; connecting to each broker takes at most 3 s more.
 * @param guarding for a client that consumes
 */
export async function openClient(
  settings: Settings,
  requestTimeoutMs: number,
  guarding: Omit<GuardOptions, 'codecs'> | null = null,
): Promise<Client> {
  const kafkajs = await loadKafkajs()
  const { Kafka, logLevel } = kafkajs
  // A namespace of an ES module lacks it; and it is looked up late, since users register codecs when they like.
  const { CompressionCodecs: codecs } = kafkajs.default
  const { sasl, checkHost } = await signingIn(settings.sasl, hostsOf(settings.brokers), settings)
  const sockets = new Set<Socket>()
  let retired = false
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
    return guarding === null ? socket : guard(socket, { ...guarding, codecs })
  }
  const kafka = new Kafka({
    clientId: settings.clientId,
    // A fresh client tries the first one first; were that dead, each of them would begin with a failure.
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
    kafka,
    retire: () => {
      retired = true
      for (const socket of sockets) socket.destroy(new Error('This client has been retired.'))
    },
  }
}

/** Connects and signs in, once. @throws BrokerError */
export async function probeKafka(settings: Settings): Promise<void> {
  const client = await openClient(settings, connectTimeoutMs)
  try {
    await withAdmin(client.kafka, async () => {})
  } catch (error) {
    throw toTrouble('Could not connect to Kafka', error)
  } finally {
    client.retire()
  }
}

/** Runs `work` with an admin connection of its own. */
export async function withAdmin<T>(kafka: Kafka, work: (admin: Admin) => Promise<T>): Promise<T> {
  const admin = kafka.admin()
  try {
    await admin.connect()
    return await work(admin)
  } finally {
    await atMost(disconnectTimeoutMs, admin.disconnect())
  }
}

function shuffled(brokers: readonly string[]): string[] {
  return brokers
    .map((broker) => ({ broker, place: Math.random() }))
    .toSorted((one, other) => one.place - other.place)
    .map(({ broker }) => broker)
}
