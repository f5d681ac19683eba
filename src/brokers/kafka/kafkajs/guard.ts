import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { BrokerError, describeError } from '../../../base/errors.ts'
import { splitPlace, type Reading } from '../client.ts'
import type { Allowance } from '../wire/allowance.ts'
import { Cursor, Malformed } from '../wire/cursor.ts'
import type { Codecs } from '../wire/unpack.ts'
import {
  fetchApi,
  readFetchRequest,
  rewriteFetchResponse,
  type FetchConnection,
  type FetchRequest,
} from './fetch.ts'
import { metadataVersion, readTopicIds, versionsApi, writeMetadataRequest } from './metadata.ts'

/**
 * Stands between kafkajs and its socket, and rewrites the records that are fetched. kafkajs decodes headers in
 * quadratic time, unpacks without a bound, checks no checksum, and crashes with all topics of a consumer for one batch
 * that it cannot read. A socket factory is part of its public interface, and the protocol is Kafka's own, so nothing
 * here knows the inside of kafkajs; and only our own consumers are concerned, not others in the process.
 */
export interface Guarding {
  readonly codecs: Codecs
  readonly reading: Pick<Reading, 'unpackedBytesMax' | 'onStuck' | 'onTopicIds' | 'onGap'>
  /** What all sockets of a client know of the brokers: kafkajs asks on the first one only. */
  readonly known: Known
}

export interface Known {
  /** In which version topics are asked for their ids. Null if it is not known, or if they have none. */
  metadataVersion: number | null
  /** See `FetchConnection`: the next request may go to another broker. */
  readonly lost: FetchConnection['lost']
}

const lengthBytes = 4
/** A topic that is deleted and made again is noticed after so long. Records that are fetched meanwhile have other times. */
const askAgainMs = 1000

/** A socket as kafkajs uses it, in front of the given one. */
export function guard(socket: Socket, { codecs, reading, known }: Guarding): Socket {
  const fetches = new Map<number, FetchRequest>()
  /** Requests for versions, which kafkajs sends, and for the ids of topics, which we send under numbers of our own. */
  const questions = new Map<number, 'versions' | 'ids'>()
  let asked = 0
  let askedAt = -Infinity
  let askedFor = ''
  const doubts = new Map<string, bigint>()
  const requests = frames()
  const responses = frames()
  let working: Promise<void> = Promise.resolve()

  async function deliver(frame: Buffer): Promise<void> {
    const body = new Cursor(frame, lengthBytes)
    const correlation = body.left >= 4 ? body.int32() : null
    const question = questions.get(correlation ?? 0)
    if (question !== undefined) {
      questions.delete(correlation!)
      if (question === 'ids') return tellIds(body)
      known.metadataVersion = metadataVersion(body)
    }
    const fetch = correlation === null ? undefined : fetches.get(correlation)
    if (fetch === undefined) return void guarded.push(frame)
    fetches.delete(correlation!)
    const { unpackedBytesMax, onStuck } = reading
    const allowance: Allowance = { codecs, unpackedBytesMax, objectBytes: unpackedBytesMax, used: false }
    const written = Buffer.concat(
      await rewriteFetchResponse(body, fetch, allowance, { onStuck, doubts, lost: known.lost }),
    )
    written.writeInt32BE(written.length - lengthBytes)
    guarded.push(written)
  }

  /** A broker answers in the order of the questions: what it says of a topic is known before the records that come then. */
  function ask({ positions }: FetchRequest): void {
    const topics = new Set([...positions.keys()].map((place) => splitPlace(place)[0]))
    const names = [...topics].join(' ')
    const fresh = performance.now() - askedAt < askAgainMs && names === askedFor
    if (known.metadataVersion === null || topics.size === 0 || fresh) return
    askedAt = performance.now()
    askedFor = names
    // kafkajs counts upwards from zero.
    const correlation = -1 - (asked++ % 0x7fffffff)
    questions.set(correlation, 'ids')
    socket.write(writeMetadataRequest(correlation, known.metadataVersion, topics))
  }

  /** Whoever began anew at a lower offset has missed nothing: the topic was made again, or its log has lost its end. */
  function findGaps({ positions }: FetchRequest): void {
    for (const [place, from] of known.lost) {
      const to = positions.get(place) ?? from
      if (to === from) continue
      known.lost.delete(place)
      const [topic, partition] = splitPlace(place)
      if (to > from) reading.onGap({ topic, partition, from: Number(from), to: Number(to) })
    }
  }

  function tellIds(body: Cursor): void {
    try {
      const { ids, cluster } = readTopicIds(body)
      reading.onTopicIds(ids, cluster)
    } catch (error) {
      if (!(error instanceof Malformed)) throw error
      // Without ids one can go on.
      known.metadataVersion = null
    }
  }

  /** Meanwhile the socket is not read, so that no more than what is in flight lies in memory. */
  function process(frame: Buffer): void {
    socket.pause()
    working = working.then(() => deliver(frame)).then(() => void socket.resume(), fail)
  }

  function fail(cause: unknown): void {
    const text = `A response of Kafka is not what its protocol says: ${describeError(cause)}`
    guarded.destroy(new BrokerError('reconnect', text, { cause }))
  }

  const guarded = new Duplex({
    allowHalfOpen: false,
    read() {},
    write(chunk: Buffer, _encoding, done) {
      try {
        for (const request of requests(chunk)) {
          const read = readRequest(request)
          if (read?.request === 'versions') questions.set(read.correlation, 'versions')
          else if (read !== null) {
            fetches.set(read.correlation, read.request)
            findGaps(read.request)
            // Between two requests, and kafkajs writes each as a whole.
            if (request.length === chunk.length) ask(read.request)
          }
        }
      } catch (cause) {
        const text = 'This version of kafkajs speaks to Kafka in a way that Twinbox does not know: use 2.2.4.'
        return done(new BrokerError('config', text, { cause }))
      }
      socket.write(chunk, done)
    },
    final(done) {
      socket.end(done)
    },
    destroy(error, done) {
      socket.destroy()
      done(error)
    },
  })
  socket.on('data', (chunk: Buffer) => {
    try {
      for (const frame of responses(chunk)) process(frame)
    } catch (cause) {
      fail(cause)
    }
  })
  socket.on('end', () => void working.then(() => guarded.push(null)))
  socket.on('error', (error) => guarded.destroy(error))
  socket.on('timeout', () => guarded.emit('timeout'))
  socket.on('close', () => void working.then(() => guarded.destroy()))
  const unref = (): Socket => {
    socket.unref()
    return whole
  }
  const whole = Object.assign(guarded, { unref }) as unknown as Socket
  return whole
}

/** Null if it is none for records, nor for the versions of the protocol. */
function readRequest(
  frame: Buffer,
): { readonly correlation: number; readonly request: FetchRequest | 'versions' } | null {
  const cursor = new Cursor(frame, lengthBytes)
  // What SASL sends while it shakes hands is no request and may be short.
  if (cursor.left < 8) return null
  const api = cursor.int16()
  const version = cursor.int16()
  const correlation = cursor.int32()
  if (api === versionsApi && version <= 2) return { correlation, request: 'versions' }
  if (api !== fetchApi) return null
  const clientId = cursor.int16()
  if (clientId > 0) cursor.take(clientId)
  return { correlation, request: readFetchRequest(cursor, version) }
}

/** Cuts a stream into frames, each with its length in front. */
function frames(): (chunk: Buffer) => Iterable<Buffer> {
  let chunks: Buffer[] = []
  let bytes = 0
  let wanted = lengthBytes
  return function* cut(chunk) {
    chunks.push(chunk)
    bytes += chunk.length
    while (bytes >= wanted) {
      const all: Buffer = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks, bytes)
      wanted = lengthBytes + all.readInt32BE()
      if (wanted < lengthBytes) throw new Malformed('a length is negative')
      chunks = [all]
      if (bytes < wanted) return
      chunks = [all.subarray(wanted)]
      bytes -= wanted
      yield all.subarray(0, wanted)
      wanted = lengthBytes
    }
  }
}
