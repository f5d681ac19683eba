import { gunzip } from 'node:zlib'
import { promisify } from 'node:util'
import { describeError } from '../../../base/errors.ts'
import { loadLz4, loadSnappy, loadZstd, type LoadCodec, type Unpack } from './codecs.ts'
import { Malformed } from './cursor.ts'
import { measureLz4, measureSnappy, measureZstd } from './measure.ts'

/** Takes the compression off a batch of records, knowing beforehand what it would come to. */

/** The batch is sound as far as anybody can tell, and nobody here can unpack it. The text says what to install. */
export class NoCodec extends Error {}

/** What users register at `kafkajs.CompressionCodecs`. One that is not there throws. */
export type Codecs = Readonly<Record<number, (() => unknown) | undefined>>

interface Method {
  readonly name: string
  /** How many bytes it unpacks to, at most, without unpacking. */
  readonly measure: (packed: Buffer) => number
  readonly load: LoadCodec
}

const gzip = 1
const methods: Readonly<Record<number, Method>> = {
  2: { name: 'snappy', measure: measureSnappy, load: loadSnappy },
  3: { name: 'lz4', measure: measureLz4, load: loadLz4 },
  4: { name: 'zstd', measure: measureZstd, load: loadZstd },
}

/**
 * By the codec that the user has registered at kafkajs, if there is one, and else by a library that is installed.
 *
 * @param load in place of the library
 * @throws Malformed if it is damaged or unpacks to more than `maxBytes`; NoCodec
 */
export async function unpack(
  packed: Buffer,
  compression: number,
  codecs: Codecs,
  maxBytes: number,
  load?: LoadCodec,
): Promise<Buffer> {
  if (compression === 0) return packed
  if (compression === gzip) return ungzip(packed, maxBytes)
  const method = methods[compression]
  if (method === undefined) throw new Malformed(`its compression ${compression} is none that Kafka has`)
  const size = method.measure(packed)
  if (size > maxBytes) throw tooLarge(maxBytes)
  const codec = registered(codecs, compression) ?? (await loaded(method.name, load ?? method.load))
  let unpacked: unknown
  try {
    unpacked = await codec(packed, maxBytes)
  } catch (error) {
    throw new Malformed(`the codec for ${method.name} could not unpack it: ${describeError(error)}`)
  }
  if (!(unpacked instanceof Uint8Array)) {
    const text = `the codec for ${method.name} that is registered at kafkajs.CompressionCodecs gave no bytes. Take it away: Twinbox brings its own.`
    throw new NoCodec(text)
  }
  if (unpacked.length > maxBytes) throw tooLarge(maxBytes)
  return Buffer.from(unpacked.buffer, unpacked.byteOffset, unpacked.length)
}

interface Codec {
  decompress(packed: Buffer): unknown
}

const isCodec = (value: unknown): value is Codec =>
  typeof value === 'object' &&
  value !== null &&
  'decompress' in value &&
  typeof value.decompress === 'function'

/** What kafkajs has in the place of a codec throws. */
function registered(codecs: Codecs, compression: number): ((packed: Buffer) => unknown) | null {
  try {
    const codec = codecs[compression]?.()
    return isCodec(codec) ? (packed) => codec.decompress(packed) : null
  } catch {
    return null
  }
}

async function loaded(name: string, load: LoadCodec): Promise<Unpack> {
  try {
    return await load()
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : describeError(cause)
    throw new NoCodec(`nothing here unpacks ${name}. ${why}`, { cause })
  }
}

const tooLarge = (maxBytes: number): Malformed =>
  new Malformed(`it unpacks to more than ${maxBytes} bytes (8 times the byte budget of a batch)`)

const gunzipAsync = promisify(gunzip)

/** Ours, whatever is registered: kafkajs's unpacks without a bound. */
async function ungzip(packed: Buffer, maxBytes: number): Promise<Buffer> {
  try {
    return await gunzipAsync(packed, { maxOutputLength: maxBytes })
  } catch (error) {
    if (error instanceof RangeError) throw tooLarge(maxBytes)
    throw new Malformed(`it could not be unpacked: ${describeError(error)}`)
  }
}
