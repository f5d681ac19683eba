import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { BrokerError, describeError } from '../../base/errors.ts'
import type { Allowance } from './wire/allowance.ts'
import { Cursor, Malformed } from './wire/cursor.ts'
import {
  fetchApi,
  readFetchRequest,
  rewriteFetchResponse,
  type FetchConnection,
  type FetchRequest,
} from './wire/fetch.ts'
import type { Codecs } from './wire/unpack.ts'

/**
 * Stands between kafkajs and its socket, and rewrites the records that are fetched. kafkajs decodes headers in
 * quadratic time, unpacks without a bound, checks no checksum, and crashes with all topics of a consumer for one batch
 * that it cannot read. A socket factory is part of its public interface, and the protocol is Kafka's own, so nothing
 * here knows the inside of kafkajs; and only our own consumers are concerned, not others in the process.
 */
export interface GuardOptions {
  readonly codecs: Codecs
  readonly unpackedBytesMax: number
  readonly onStuck: FetchConnection['onStuck']
}

const lengthBytes = 4

/** A socket as kafkajs uses it, in front of the given one. */
export function guard(socket: Socket, options: GuardOptions): Socket {
  const fetches = new Map<number, FetchRequest>()
  const doubts = new Map<string, bigint>()
  const requests = frames()
  const responses = frames()
  let working: Promise<void> = Promise.resolve()

  async function deliver(frame: Buffer): Promise<void> {
    const body = new Cursor(frame, lengthBytes)
    const correlation = body.left >= 4 ? body.int32() : null
    const fetch = correlation === null ? undefined : fetches.get(correlation)
    if (fetch === undefined) return void guarded.push(frame)
    fetches.delete(correlation!)
    const { codecs, unpackedBytesMax, onStuck } = options
    const allowance: Allowance = { codecs, unpackedBytesMax, objectBytes: unpackedBytesMax, used: false }
    const written = Buffer.concat(await rewriteFetchResponse(body, fetch, allowance, { onStuck, doubts }))
    written.writeInt32BE(written.length - lengthBytes)
    guarded.push(written)
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
          const fetch = readRequest(request)
          if (fetch !== null) fetches.set(fetch.correlation, fetch.request)
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

/** Null if it is none for records. */
function readRequest(frame: Buffer): { readonly correlation: number; readonly request: FetchRequest } | null {
  const cursor = new Cursor(frame, lengthBytes)
  // What SASL sends while it shakes hands is no request and may be short.
  if (cursor.left < 8 || cursor.int16() !== fetchApi) return null
  const version = cursor.int16()
  const correlation = cursor.int32()
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
