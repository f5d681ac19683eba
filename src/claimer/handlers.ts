import type { Transaction } from 'kysely'
import type pg from 'pg'
import { OptionError } from '../base/errors.ts'
import { checkTopicPattern, topicMatches, type Message } from '../message/message.ts'
import type { Topics } from '../topics/topics.ts'
import type { MessageOf, PatternsOf, RegisteredTopics } from '../topics/types.ts'
import { readNumbers, refuseUnknown } from '../base/options.ts'

/** What every handler is told beside the message. */
export interface HandlerContext {
  /** Aborts when the claim is lost, when `handleTimeoutMs` has passed, or when a stop has waited long enough. */
  readonly signal: AbortSignal
  /** 1 the first time. Of a batch, the highest. */
  readonly attempt: number
  /**
   * The same for every attempt at this message by this consumer: pass it on to systems that are not part of the
   * transaction, so that they can drop the second call. Of a batch, that of the first message.
   */
  readonly idempotencyKey: string
  /**
   * Rises with every claim. A system that remembers the highest one it saw can refuse a worker that was given up on;
   * except that a crash of the server may take back the last claims of messages without a key, and with them the rise.
   */
  readonly fence: number
}

/** The context of a handler with a transaction. What it writes there commits together with the completion, or not. */
export interface TransactionContext<Tables> extends HandlerContext {
  readonly trx: Transaction<Tables>
  /** The same transaction as a `pg` client. Do not end it. */
  readonly client: pg.ClientBase
}

/** The context of a handler whose transaction a data library has opened, see `inTransaction`. */
export interface LibraryContext<Tx> extends HandlerContext {
  /** What the library calls the transaction. What is written there commits together with the completion, or not. */
  readonly tx: Tx
}

export type Handler<Context, Handled = Message> = (message: Handled, context: Context) => unknown
export type BatchHandler<Context, Handled = Message> = (
  messages: readonly Handled[],
  context: Context,
) => unknown

export interface HandlerOptions {
  /** How often the message is attempted before it becomes a dead letter. @default that of the claimer */
  readonly maxAttempts?: number | undefined
  /** How long the handler may run; 0 for ever. In milliseconds. @default that of the claimer */
  readonly handleTimeoutMs?: number | undefined
  /** First pause after a failure; it doubles, with jitter. In milliseconds. @default that of the claimer */
  readonly backoffMsMin?: number | undefined
  /** Longest pause after a failure. In milliseconds. @default that of the claimer */
  readonly backoffMsMax?: number | undefined
  /** What becomes of the key of a dead letter, see `createClaimer`. @default that of the claimer */
  readonly onDead?: 'park' | 'skip' | undefined
}

/** A handler by itself, or with options of its own. */
export type HandlerEntry<Tables, Handled = Message, Context = TransactionContext<Tables>> =
  // A function has neither; saying so lets the compiler tell the other forms apart by what is left out.
  | (Handler<Context, Handled> & { readonly transaction?: never; readonly batch?: never })
  | (HandlerOptions & {
      readonly transaction?: true
      readonly batch?: false
      /** How many messages, handled one by one, share a transaction, see `createClaimer`. @default that of the claimer */
      readonly runSize?: number | undefined
      readonly handle: Handler<Context, Handled>
    })
  | (HandlerOptions & {
      readonly transaction: false
      readonly batch?: false
      /** How many of a key may be handled and not completed, see `createClaimer`. @default that of the claimer */
      readonly keyWindow?: number | undefined
      readonly handle: Handler<HandlerContext, Handled>
    })
  | (HandlerOptions & {
      readonly transaction?: true
      readonly batch: true
      /** Most messages in one call. @default 100 */
      readonly batchSize?: number | undefined
      readonly handle: BatchHandler<Context, Handled>
    })
  | (HandlerOptions & {
      readonly transaction: false
      readonly batch: true
      readonly batchSize?: number | undefined
      readonly handle: BatchHandler<HandlerContext, Handled>
    })

/**
 * Handlers by topic. A name counts before a pattern, an earlier pattern before a later one. With defined topics each gets the
 * payload of its topic, and that of a pattern a union.
 */
export type Handlers<
  Tables,
  Defined extends Topics = RegisteredTopics,
  Context = TransactionContext<Tables>,
> =
  string extends PatternsOf<Defined>
    ? Readonly<Record<string, HandlerEntry<Tables, Message, Context>>>
    : {
        readonly [Pattern in PatternsOf<Defined>]?: HandlerEntry<Tables, MessageOf<Defined, Pattern>, Context>
      }

const names = [
  ...(['maxAttempts', 'handleTimeoutMs', 'backoffMsMin', 'backoffMsMax'] as const),
  ...(['keyWindow', 'runSize'] as const),
] as const
type Numbers = Record<(typeof names)[number], number>

/** A handler with all its options settled. */
export interface ResolvedHandler extends Omit<Numbers, 'runSize'> {
  readonly transaction: boolean
  /** Most messages in one call or, if it is no batch that it takes, in one transaction. */
  readonly together: number
  readonly batch: boolean
  readonly onDead: 'park' | 'skip'
  readonly handle: (input: never, context: never) => unknown
}

/** A topic is told by whoever publishes, and so may be their number: they must not fill the memory. */
const topicsKnownMax = 10_000

/** Finds the handler of a topic. @throws OptionError for entries that cannot work. */
export function handlersByTopic(
  handlers: Readonly<Record<string, HandlerEntry<never>>>,
  defaults: Numbers & { readonly onDead: 'park' | 'skip' },
  topics: Topics | null = null,
): (topic: string) => ResolvedHandler | undefined {
  const resolved = new Map<string, ResolvedHandler>()
  for (const [pattern, entry] of Object.entries(handlers)) {
    try {
      checkTopicPattern(pattern)
    } catch (cause) {
      throw new OptionError(
        'handlers',
        `handlers has an entry "${pattern.slice(0, 100)}" that is no topic and no pattern.`,
        { cause },
      )
    }
    if (topics !== null && !topics.names.some((topic) => topicMatches(pattern, topic))) {
      throw new OptionError(
        'handlers',
        `handlers has an entry "${pattern}" that none of the defined topics has or matches.`,
      )
    }
    resolved.set(pattern, resolve(pattern, entry, defaults))
  }
  if (resolved.size === 0)
    throw new OptionError('handlers', 'handlers is empty: give at least one topic a handler.')
  const byTopic = new Map<string, ResolvedHandler | undefined>()
  return (topic) => {
    if (!byTopic.has(topic)) {
      if (byTopic.size >= topicsKnownMax) byTopic.clear()
      // What is not defined could be anything: it waits for somebody who knows it.
      const known = topics === null || topics.definitions.has(topic)
      const pattern = known
        ? [...resolved.keys()].find((candidate) => topicMatches(candidate, topic))
        : undefined
      byTopic.set(topic, resolved.get(topic) ?? (pattern === undefined ? undefined : resolved.get(pattern)))
    }
    return byTopic.get(topic)
  }
}

export const noHandlerOf = (topic: string): OptionError =>
  new OptionError('handlers', `This claimer has no handler for the topic "${topic}".`)

function resolve(
  topic: string,
  entry: HandlerEntry<never>,
  defaults: Numbers & { readonly onDead: 'park' | 'skip' },
): ResolvedHandler {
  const spec = typeof entry === 'function' ? { handle: entry } : entry
  if (typeof spec?.handle !== 'function') {
    throw new OptionError(
      'handlers',
      `The handler of "${topic}" must be a function, or an object with a function "handle".`,
    )
  }
  refuseUnknown(`the handler of "${topic}"`, spec, [
    ...names,
    'handle',
    'transaction',
    'batch',
    'batchSize',
    'onDead',
  ])
  const numbers = readNumbers({ ...defaults, ...defined(spec) }, names)
  const batch = spec.batch ?? false
  const transaction = spec.transaction ?? true
  const isWindowed = !transaction && !batch
  const isRun = transaction && !batch
  if (!isWindowed) refuse(topic, spec, 'keyWindow', 'with transaction: false')
  if (!isRun) refuse(topic, spec, 'runSize', 'with a transaction')
  const { batchSize } = readNumbers(
    { batchSize: ('batchSize' in spec ? spec.batchSize : undefined) ?? 100 },
    ['batchSize'],
  )
  return {
    ...numbers,
    batch,
    together: batch ? batchSize : isRun ? numbers.runSize : 1,
    transaction,
    keyWindow: isWindowed ? numbers.keyWindow : 1,
    onDead: spec.onDead ?? defaults.onDead,
    handle: spec.handle,
  }
}

/** A data library lets a handler commit its transaction, and with it what others of the run have done and is not completed. */
export function refuseRuns(handlers: Readonly<Record<string, HandlerEntry<never>>>, runSize: number): void {
  const sizes = Object.values(handlers).map((entry) => ('runSize' in entry ? (entry.runSize ?? 1) : 1))
  if (Math.max(runSize, ...sizes) === 1) return
  throw new OptionError(
    'runSize',
    'runSize needs transactions of the claimer: in that of a data library, leave inTransaction away and use bind.',
  )
}

function refuse(topic: string, spec: object, name: 'keyWindow' | 'runSize', of: string): void {
  if ((spec as Record<string, unknown>)[name] === undefined) return
  throw new OptionError(
    name,
    `The handler of "${topic}" has a ${name}, which is for handlers ${of} that take one message at a time.`,
  )
}

function defined<Options extends object>(options: Options): Partial<Options> {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as Partial<Options>
}
