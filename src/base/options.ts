import { OptionError } from './errors.ts'

/** Defaults and limits of every option. Nowhere else is there a default. */

/**
 * Limits that are the same for everybody, because a broker or Postgres sets them. The SQL function `publish` has those of a
 * published message too, spelled out: test/publish.test.ts compares the two.
 */
export const limits = {
  /** Kafka's limit of a topic's name, in characters. */
  topicLength: 249,
  /** A RabbitMQ routing key and our own index both end here. */
  keyBytes: 255,
  /** A btree entry may have 2,704 bytes; this leaves the topic room beside it. */
  dedupeKeyBytes: 512,
  headerCount: 64,
  headerNameLength: 100,
  /** AMQP's smallest frame that everybody uses holds 128 KiB; half of it may be headers, and Kafka brokers index them. */
  headersBytes: 16 * 1024,
  contentTypeLength: 100,
  payloadDepth: 100,
  /** JSON of other systems. Postgres has a stack of 2 MB, on which it takes some 6,000 levels. */
  receivedDepth: 1000,
  /** What foreign senders may put on a message that is received: above it, it is a dead letter. */
  receivedTopicBytes: 64 * 1024,
  receivedHeaderCount: 1024,
  receivedHeadersBytes: 64 * 1024,
  /** What AMQP carries. */
  receivedTypeBytes: 255,
  /** Default of a receiver's maxPayloadBytes, and what RabbitMQ 4 takes; such a message fits into a heap of 256 MB. */
  receivedBytes: 16 * 1024 * 1024,
  /** Of a body that is larger, so much is kept to look at. */
  refusedBytes: 64 * 1024,
  /** All messages of one publishMany: escaped, they still fit into one string of V8 and one value of Postgres. */
  publishBytes: 128 * 1024 * 1024,
  /** One batch on its way in. More of them in one statement would come near the 15 s that a statement may take. */
  batchBytes: 8 * 1024 * 1024,
  /** The Postgres broker writes no more rows in one statement, each consumer's counted: it would run for too long. */
  fanOutRows: 5000,
  /** Ten years: further ahead, a date is a mistake. */
  aheadMs: 3650 * 24 * 3_600_000,
} as const

interface NumberOption {
  readonly default: number
  readonly min: number
  readonly max: number
  readonly why: string
}

const number = (value: number, min: number, max: number, why: string): NumberOption => ({
  default: value,
  min,
  max,
  why,
})

const hour = 3_600_000
const day = 24 * hour

export const numberOptions = {
  maxPayloadBytes: number(
    1024 * 1024,
    1,
    64 * 1024 * 1024,
    'a larger row makes Postgres, the broker and the worker hold it in memory several times over',
  ),
  dedupeWindowMs: number(7 * day, 1000, 3650 * day, 'below a second no retry finds its first publish'),
  maxPending: number(0, 0, 10_000_000, '0 is no limit, and a higher one takes too long to count'),
  leaseMs: number(
    15_000,
    1000,
    hour,
    'a shorter lease would spend more writes on renewing it than on the messages',
  ),
  heartbeatMs: number(1000, 50, 60_000, 'more often than 20 times a second costs more than it tells'),
  deadAfterMs: number(5000, 200, hour, 'a worker must be allowed to miss several heartbeats'),
  failoverGraceMs: number(2000, 0, 60_000, 'if the assigned worker dies too, its work waits this long'),
  pollMs: number(5, 1, 60_000, '0 would be a busy loop'),
  pollMsMax: number(100, 1, 60_000, 'it may not be less than pollMs'),
  batchSize: number(500, 1, 10_000, 'a batch is held in memory as a whole'),
  keyWindow: number(1, 1, 1000, 'a crash repeats up to so many messages of a key'),
  runSize: number(1, 1, 100, 'what a handler locks stays locked until the last one of its run has ended'),
  concurrency: number(10, 1, 1000, 'each handler with a transaction takes a connection'),
  maxAttempts: number(10, 1, 10_000, 'a message needs at least one attempt'),
  backoffMsMin: number(500, 0, day, 'it is a delay'),
  backoffMsMax: number(300_000, 0, 30 * day, 'it may not be less than backoffMsMin'),
  handleTimeoutMs: number(0, 0, day, '0 means no limit'),
  unsubscribeAfterMs: number(
    hour,
    0,
    12 * hour,
    'workers that have ended are remembered for a day; 0 means never',
  ),
  keepHandledMs: number(0, 0, 3650 * day, '0 keeps nothing'),
  keepDeadMs: number(0, 0, 3650 * day, '0 keeps them until somebody redrives or skips them'),
  stuckAfterMs: number(60_000, 1000, day, 'work that pauses for less than a second is not stuck'),
  topicsMax: number(20, 1, 1000, 'topics have no bound, and nobody reads more of them'),
  waitMs: number(60_000, 0, day, '0 means one try'),
  stopTimeoutMs: number(25_000, 0, hour, 'orchestrators kill after 30 s by default'),
} as const satisfies Record<string, NumberOption>

export type NumberOptionName = keyof typeof numberOptions

/** The named numbers out of `given`, with defaults. @throws OptionError saying the range and why it is one. */
export function readNumbers<Name extends NumberOptionName>(
  given: { readonly [name in Name]?: number | undefined },
  names: readonly Name[],
): Record<Name, number> {
  const result = {} as Record<Name, number>
  for (const name of names) {
    const option = numberOptions[name]
    const value: unknown = given[name] ?? option.default
    if (typeof value !== 'number' || !Number.isInteger(value) || value < option.min || value > option.max) {
      const found = typeof value === 'number' ? String(value) : `of type ${typeof value}`
      throw new OptionError(
        name,
        `${name} is ${found}, but must be a whole number from ${option.min} to ${option.max}: ${option.why}.`,
      )
    }
    result[name] = value
  }
  return result
}

/** @throws OptionError for anything but true, false and undefined: the text "false" would count as true. */
export function readBoolean(name: string, value: unknown, otherwise: boolean): boolean {
  if (value === undefined) return otherwise
  if (typeof value !== 'boolean') {
    throw new OptionError(name, `${name} is of type ${typeof value}, but must be true or false.`)
  }
  return value
}

/** The names of all options, also of a type with several shapes. */
type NameOf<Options> = Options extends unknown ? keyof Options & string : never

/** Types are gone when it runs, so the names are listed: a list that lacks one does not compile. */
type Complete<Options, Name> = [Exclude<NameOf<Options>, Name>] extends [never]
  ? unknown
  : { readonly missing: Exclude<NameOf<Options>, Name> }

/** @throws OptionError for a field that no option has: a misspelt option is not an option left out. */
export function refuseUnknown<Options extends object, Name extends NameOf<Options>>(
  where: string,
  given: Options,
  known: readonly Name[] & Complete<Options, Name>,
): void {
  if (typeof given !== 'object' || given === null) {
    throw new OptionError('options', `The options of ${where} must be an object.`)
  }
  for (const name in given) {
    if (!(known as readonly string[]).includes(name)) {
      throw new OptionError(
        name,
        `${name} is not an option of ${where}. Known are: ${known.toSorted().join(', ')}.`,
      )
    }
  }
}

/** @throws OptionError unless `a < b` holds, with the reason. */
export function requireOrder(
  numbers: Record<string, number>,
  smaller: string,
  larger: string,
  why: string,
): void {
  if (!(numbers[smaller]! <= numbers[larger]!)) {
    throw new OptionError(
      smaller,
      `${smaller} is ${numbers[smaller]} and ${larger} is ${numbers[larger]}, but ${smaller} may not exceed it: ${why}.`,
    )
  }
}

/** @throws OptionError if a worker would be taken for dead between two of its heartbeats. */
export function checkHeartbeat({
  heartbeatMs,
  deadAfterMs,
}: Record<'heartbeatMs' | 'deadAfterMs', number>): void {
  if (deadAfterMs >= 2 * heartbeatMs) return
  throw new OptionError(
    'deadAfterMs',
    `deadAfterMs is ${deadAfterMs} and heartbeatMs is ${heartbeatMs}, but it must be at least twice as long: one late heartbeat is no death.`,
  )
}

/**
 * A schema name, safe to put into SQL: lower case, since unquoted SQL by hand would not find anything else, and at
 * most 51 characters, since Postgres would cut the names derived from it at 63 without a word.
 * @throws OptionError
 */
export function checkSchema(schema: string): string {
  if (
    typeof schema !== 'string' ||
    !/^[a-z_][a-z0-9_]{0,50}$/.test(schema) ||
    /^(pg_|information_schema$)/.test(schema)
  ) {
    throw new OptionError(
      'schema',
      'schema must be a lower-case identifier of at most 51 characters that does not start with pg_.',
    )
  }
  return schema
}

/** A consumer's name: it becomes part of queue names and group ids. @throws OptionError */
export function checkConsumer(consumer: string): string {
  if (typeof consumer !== 'string' || !/^[A-Za-z0-9._-]{1,100}$/.test(consumer)) {
    throw new OptionError('consumer', 'consumer must be 1 to 100 characters of A-Z a-z 0-9 . _ -')
  }
  return consumer
}

/** A whole number in a range, or the default. @throws OptionError */
export function whole(option: string, value: unknown, standard: number, min: number, max: number): number {
  if (value === undefined) return standard
  if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
  const found = typeof value === 'number' ? String(value) : `of type ${typeof value}`
  throw new OptionError(option, `${option} is ${found}, but must be a whole number from ${min} to ${max}.`)
}

/** Text that matches a pattern, or the default. @throws OptionError */
export function text(option: string, value: unknown, standard: string, pattern: RegExp): string {
  if (value === undefined) return standard
  if (typeof value === 'string' && pattern.test(value)) return value
  throw new OptionError(option, `${option} must be text that matches ${pattern.source}.`)
}

/** One of some words; the first is the default. @throws OptionError */
export function oneOf<T extends string>(option: string, value: unknown, choices: readonly [T, ...T[]]): T {
  if (value === undefined) return choices[0]
  const choice = choices.find((candidate) => candidate === value)
  if (choice !== undefined) return choice
  throw new OptionError(
    option,
    `${option} must be one of: ${choices.join(', ')}. The default is ${choices[0]}.`,
  )
}

/** A function that gives a name, or nothing. @throws OptionError */
export function callable<T>(option: string, value: T | undefined): T | undefined {
  if (value === undefined || typeof value === 'function') return value
  throw new OptionError(option, `${option} must be a function that returns a name.`)
}
