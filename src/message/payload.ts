import { MessageError, type MessageErrorCode } from '../base/errors.ts'
import { limits } from '../base/options.ts'

/** The bytes of a payload that is binary as a whole; null for everything else, which travels as JSON. */
export function asBytes(payload: unknown): Uint8Array | null {
  if (payload instanceof Uint8Array) return payload
  if (payload instanceof ArrayBuffer) return new Uint8Array(payload)
  if (ArrayBuffer.isView(payload)) {
    return new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength)
  }
  return null
}

/**
 * The payload as JSON text. Refuses what `JSON.stringify` would change or drop in silence: NaN becomes null, a Map
 * becomes {}, a function vanishes. An `undefined` property is left out, as everybody expects.
 */
export function toJson(payload: unknown, maxBytes: number, at: string): string {
  const fail = (code: MessageErrorCode, path: string, text: string, cause?: unknown): never => {
    throw new MessageError(
      code,
      at + path,
      `${at}${path} ${text}`,
      cause === undefined ? undefined : { cause },
    )
  }
  if (payload === undefined) {
    fail('PAYLOAD_REQUIRED', 'payload', 'is undefined. Publish null if the message has nothing to say.')
  }
  const path: (string | number)[] = []
  const ancestors: object[] = []
  let roughBytes = 0
  const where = (): string =>
    'payload' +
    path.map((step) => (typeof step === 'number' ? `[${step}]` : `.${step.slice(0, 60)}`)).join('')

  /** False if JSON leaves the value out. */
  const walk = (given: unknown, nameBytes: number): boolean => {
    const value = typeof given === 'object' && given !== null ? jsonForm(given) : given
    if (value === undefined) return false
    // Never more than the bytes that it will have. Known before it is serialised: 256 MiB of text take seconds, and a
    // graph of 40 objects that each name the next one twice has no end.
    roughBytes += nameBytes + (typeof value === 'string' ? value.length + 2 : 1)
    if (roughBytes > maxBytes) {
      fail(
        'PAYLOAD_TOO_LARGE',
        'payload',
        `has at least ${roughBytes} bytes, but the limit is ${maxBytes} (maxPayloadBytes).`,
      )
    }
    if (typeof value === 'number' && !Number.isFinite(value)) {
      fail('PAYLOAD_LOSSY', where(), `is ${value}, which JSON would turn into null.`)
    }
    if (typeof value === 'bigint') {
      fail('PAYLOAD_TYPE', where(), 'is a BigInt, which JSON cannot hold. Convert it to a string.')
    }
    if (typeof value === 'function' || typeof value === 'symbol') {
      fail('PAYLOAD_TYPE', where(), `is a ${typeof value}, which JSON would drop.`)
    }
    if (typeof value === 'object' && value !== null) walkObject(value)
    return true
  }
  /** What JSON.stringify goes on with: it asks each object once for `toJSON`, and unwraps `new Number(1)`. */
  const jsonForm = (value: object): unknown => {
    if (isLiteral(value)) {
      if (!('toJSON' in value)) return value
    } else if (
      value instanceof Number ||
      value instanceof String ||
      value instanceof Boolean ||
      value instanceof BigInt
    ) {
      return value.valueOf()
    }
    if (!('toJSON' in value) || typeof value.toJSON !== 'function') return value
    if (ArrayBuffer.isView(value)) {
      fail('PAYLOAD_LOSSY', where(), 'is binary. Publish bytes as the whole payload.')
    }
    if (value instanceof Date && Number.isNaN(value.getTime())) {
      fail('INVALID_DATE', where(), 'is an invalid Date, which JSON would turn into null.')
    }
    try {
      return value.toJSON(String(path.at(-1) ?? ''))
    } catch (error) {
      return fail('PAYLOAD_SERIALIZE', where(), 'has a toJSON method that threw.', error)
    }
  }
  const walkObject = (value: object): void => {
    const names = Array.isArray(value) ? [] : Object.keys(value)
    if (
      ArrayBuffer.isView(value) ||
      (!isLiteral(value) &&
        (emptied.some((type) => value instanceof type) ||
          (names.length === 0 && !Array.isArray(value) && !isPlain(value))))
    ) {
      fail(
        'PAYLOAD_LOSSY',
        where(),
        `is a ${value.constructor?.name ?? 'hidden object'}, which JSON would empty. Convert it first.`,
      )
    }
    if (ancestors.length >= limits.payloadDepth) {
      // A cycle runs into the depth limit too; then say so, since that is what has to be mended.
      if (ancestors.includes(value) || new Set(ancestors).size < ancestors.length) {
        fail('PAYLOAD_CIRCULAR', where().slice(0, 200), 'refers back to an object that contains it.')
      }
      fail(
        'PAYLOAD_TOO_DEEP',
        where().slice(0, 200),
        `is nested deeper than ${limits.payloadDepth} levels, the limit.`,
      )
    }
    ancestors.push(value)
    if (Array.isArray(value)) {
      for (let index = 0; index < value.length; index++) {
        path.push(index)
        if (!walk(value[index], 0)) {
          fail('PAYLOAD_LOSSY', where(), 'is undefined, which JSON would turn into null.')
        }
        path.pop()
      }
    }
    for (const name of names) {
      path.push(name)
      walk((value as Record<string, unknown>)[name], name.length + 3)
      path.pop()
    }
    ancestors.pop()
  }

  try {
    if (!isSurelyFine(payload, maxBytes)) walk(payload, 0)
    const text = JSON.stringify(payload) as string | undefined
    return text ?? fail('PAYLOAD_TYPE', 'payload', 'has no JSON form: its toJSON gave undefined.')
  } catch (error) {
    if (error instanceof MessageError) throw error
    return fail('PAYLOAD_SERIALIZE', where().slice(0, 200), 'could not be turned into JSON.', error)
  }
}

/**
 * Nearly every payload is made of literals, and nothing can be said against it: that is found out here, without an object
 * per message. What is not, and what throws when it is read, has to be looked at closely.
 */
function isSurelyFine(payload: unknown, maxBytes: number): boolean {
  try {
    return plainBytes(payload, maxBytes, limits.payloadDepth) <= maxBytes
  } catch {
    return false
  }
}

/** At least so many bytes, or NaN if it is not made of literals only. */
function plainBytes(value: unknown, most: number, depth: number): number {
  if (typeof value === 'string') return value.length + 2
  if (typeof value === 'number') return Number.isFinite(value) ? 1 : NaN
  if (typeof value === 'boolean' || value === null) return 1
  if (typeof value !== 'object' || depth === 0 || !isLiteral(value) || 'toJSON' in value) return NaN
  let bytes = 1
  if (Array.isArray(value)) {
    for (const element of value as unknown[]) {
      bytes += plainBytes(element, most - bytes, depth - 1)
      if (!(bytes <= most)) return NaN
    }
    return bytes
  }
  for (const name in value) {
    const property = (value as Record<string, unknown>)[name]
    if (property === undefined) continue
    bytes += name.length + 3 + plainBytes(property, most - bytes, depth - 1)
    if (!(bytes <= most)) return NaN
  }
  return bytes
}

/** Their content is not in properties, so JSON makes {} of them. Of an Error it drops at least the message. */
const emptied = [
  Map,
  Set,
  WeakMap,
  WeakSet,
  WeakRef,
  RegExp,
  Promise,
  Error,
  ArrayBuffer,
  SharedArrayBuffer,
] as const

/** What a literal makes, as nearly everything in a payload is: no other kind of object has these prototypes. */
function isLiteral(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === Array.prototype
}

/** Made by `{}`, by `Object.create(null)`, or by the `{}` of another realm. */
export function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}
