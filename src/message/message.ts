import { createHash, randomBytes } from 'node:crypto'
import { MessageError } from '../base/errors.ts'
import { limits } from '../base/options.ts'

/**
 * Headers by which RabbitMQ sends copies elsewhere. It wants a list there: a text makes it close the channel, with all
 * that is in flight. In other cases, `cc`, they are headers like any other.
 */
export const isRoutingHeader = (name: string): boolean => name === 'CC' || name === 'BCC'

/** A message as an application publishes it. */
export interface NewMessage<Topic extends string = string, Payload = unknown> {
  /** What it is about: 1 to 249 characters of `A-Z a-z 0-9 . _ -`, as in `order.placed`. */
  readonly topic: Topic
  /** Messages that share a key are handled one at a time, in order. Up to 255 bytes. Without one, order is not kept. */
  readonly key?: string | null | undefined
  /**
   * Anything that survives `JSON.stringify` unharmed, or a `Uint8Array` for everything that is not JSON.
   * At most 1 MiB by default.
   */
  readonly payload: Payload
  /** Text that travels beside the payload. Names starting with `ce_`, `cloudEvents` or `twinbox` are ours, and `CC` and `BCC` RabbitMQ's. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** The media type of a `Uint8Array` payload. @default 'application/octet-stream' */
  readonly contentType?: string | undefined
  /**
   * The publisher's own identity for the message, up to 512 bytes, in the scope of its topic. A second publish with
   * the same key inside the window adds nothing and is told the id of the first.
   */
  readonly dedupeKey?: string | undefined
  /**
   * When to send it; in the past it is at once. Until then it can be cancelled. Delayed messages of one key are sent in
   * the order in which they become due, behind what was published by then. At most ten years ahead.
   */
  readonly deliverAt?: Date | undefined
  /** The same as a delay in milliseconds, by the database's clock. */
  readonly delayMs?: number | undefined
  /**
   * After this it is not handled any more: it becomes a dead letter with the reason `expired`. Other systems get it as
   * the CloudEvents attribute `expirytime`. At most ten years ahead. @default never
   */
  readonly expiresAt?: Date | undefined
}

/** What every message has wherever it is told of: to a broker, to a handler, to an operator. */
export interface MessageFields {
  readonly id: string
  readonly topic: string
  readonly key: string | null
  readonly contentType: string
}

/** A message ready for the outbox: checked, with its id, its payload as text or bytes. */
export interface CheckedMessage extends Omit<MessageFields, 'contentType'> {
  readonly headers: string | null
  /** JSON text or bytes. */
  readonly content: string | Uint8Array
  /** Of bytes. */
  readonly contentType: string | null
  readonly dedupeKey: string | null
  readonly deliverAt: Date | null
  readonly delayMs: number | null
  readonly expiresAt: Date | null
}

/** A message as a relay hands it to a broker. */
export interface OutgoingMessage extends MessageFields {
  readonly headers: Readonly<Record<string, string>> | null
  /** JSON text exactly as it was published, or bytes. */
  readonly content: string | Uint8Array
  readonly publishedAt: Date
  /** Null or left out if it never expires. */
  readonly expiresAt?: Date | null
}

/** A message as a handler gets it. */
export interface Message<Payload = unknown, Topic extends string = string> extends MessageFields {
  readonly topic: Topic
  readonly headers: Readonly<Record<string, string>>
  /**
   * What a sender that is no outbox of yours says in words of CloudEvents, extensions included (`type`, `source`, `subject`,
   * `datacontenttype`, …), and in properties of AMQP (`amqp-correlation-id`, `amqp-reply-to`, `amqp-type`, …). Of a message of your
   * own only what no field of it says, so mostly empty. It is the sender's word.
   */
  readonly attributes: Readonly<Record<string, string>>
  /** The parsed JSON, or the bytes of everything else. */
  readonly payload: Payload
  /**
   * When it was published, by the clock of the publishing database; if it was delayed, when it became due. Null if the
   * sender did not say.
   */
  readonly publishedAt: Date | null
  readonly receivedAt: Date
  /** Null if it never expires. */
  readonly expiresAt: Date | null
}

export const jsonContentType = 'application/json'

let randomPool = ''
let randomUsed = 0

/**
 * A UUID version 7 (RFC 9562): its first 48 bits are the time, so that the primary keys that it ends up in grow at
 * one end instead of touching a random page for every message.
 */
export function newMessageId(): string {
  if (randomUsed + 19 > randomPool.length) {
    randomPool = randomBytes(1900).toString('hex')
    randomUsed = 0
  }
  const random = randomPool.slice(randomUsed, randomUsed + 19)
  randomUsed += 19
  return toOutboxId(Date.now(), random)
}

/** The id of a recurring message, which whoever publishes its tick makes alike. */
export const toTickId = (schedule: string, at: Date): string =>
  toOutboxId(
    at.getTime(),
    createHash('sha256').update(`schedule ${schedule} ${at.toISOString()}`).digest('hex'),
  )

let lastMs = Number.NaN
let lastTime = ''

function toOutboxId(atMs: number, random: string): string {
  // Hundreds of messages are published in the same millisecond.
  if (atMs !== lastMs) {
    const time = atMs.toString(16).padStart(12, '0')
    lastTime = `${time.slice(0, 8)}-${time.slice(8)}`
    lastMs = atMs
  }
  const variant = '89ab'[Number.parseInt(random[3]!, 16) & 3]!
  return `${lastTime}-7${random.slice(0, 3)}-${variant}${random.slice(4, 7)}-${random.slice(7, 19)}`
}

export const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** Whether an outbox may have made it: a UUID version 7. No `toMessageId` is one, whatever it is made of. */
export const isOutboxId = (id: string): boolean => uuidPattern.test(id) && id[14] === '7'

/**
 * The id of a message of another system: a UUID version 8 made from the SHA-256 of its identity, the same for every
 * redelivery. The inbox then has one kind of id, of 16 bytes. A UUID is hashed as well: anybody may send the one that somebody
 * else is going to use, and the second to come would be taken for a duplicate.
 */
export function toMessageId(identity: string): string {
  const hex = createHash('sha256').update(identity).digest('hex')
  const variant = '89ab'[Number.parseInt(hex[16]!, 16) & 3]!
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}

/** Whether one of these names and patterns of handlers, or of subscriptions, takes a topic. */
export const takes = (patterns: readonly string[], topic: string): boolean =>
  patterns.some((pattern) => topicMatches(pattern, topic))

/** AMQP topic patterns: words parted by dots, `*` for one word, `#` for any number, none included. */
export function topicMatches(pattern: string, topic: string): boolean {
  const match = (patternWords: readonly string[], words: readonly string[]): boolean => {
    // Dynamic programming instead of a regular expression: "#.#.#.#" over a long topic would take for ever.
    let reachable = new Array<boolean>(words.length + 1).fill(false)
    reachable[0] = true
    for (const part of patternWords) {
      const next = new Array<boolean>(words.length + 1).fill(false)
      for (let index = 0; index <= words.length; index++) {
        if (part === '#') next[index] = reachable[index]! || (index > 0 && next[index - 1]!)
        else next[index] = index > 0 && reachable[index - 1]! && (part === '*' || part === words[index - 1])
      }
      reachable = next
    }
    return reachable[words.length]!
  }
  return pattern === topic || match(pattern.split('.'), topic.split('.'))
}

/** Whether there can be a topic that both of these patterns take. */
export function patternsMeet(one: string, other: string): boolean {
  const [rows, columns] = [one.split('.'), other.split('.')]
  // What is left of both, from their ends on: whether it meets.
  let below: boolean[] = []
  for (let row = rows.length; row >= 0; row--) {
    const here: boolean[] = []
    for (let column = columns.length; column >= 0; column--) {
      const [a, b] = [rows[row], columns[column]]
      if (a === undefined && b === undefined) here[column] = true
      else if (a === '#' || b === '#')
        here[column] = (a !== undefined && below[column]!) || (b !== undefined && here[column + 1]!)
      else here[column] = a !== undefined && b !== undefined && below[column + 1]! && isSameWord(a, b)
    }
    below = here
  }
  return below[0]!
}

const isSameWord = (a: string, b: string): boolean => a === b || a === '*' || b === '*'

/** Checks a topic pattern of a subscription. @throws MessageError */
export function checkTopicPattern(pattern: string): void {
  const words = typeof pattern === 'string' ? pattern.split('.') : []
  const sound = words.every((word) => word === '*' || word === '#' || /^[A-Za-z0-9_-]+$/.test(word))
  if (words.length === 0 || pattern.length > limits.topicLength || !sound) {
    throw new MessageError(
      'INVALID_TOPIC',
      'topics',
      'topics must be names or AMQP patterns: words of A-Z a-z 0-9 _ - parted by dots, * for one word, # for any number.',
    )
  }
}
