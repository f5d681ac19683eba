import { Inject } from '@nestjs/common'
import type {
  HandlerContext,
  HandlerOptions,
  LibraryContext,
  TransactionContext,
} from '../../claimer/handlers.ts'
import { OptionError } from '../../base/errors.ts'
import { checkTopicPattern, type Message } from '../../message/message.ts'
import type { Topics } from '../../topics/topics.ts'
import type { MessageOf, PatternsOf, RegisteredTopics } from '../../topics/types.ts'

/** The token under which Nest has the outbox, for `overrideProvider` in tests and for `inject` of factories. */
export const outboxToken = Symbol.for('twinbox.outbox')

/** Injects the outbox: `constructor(@InjectOutbox() private readonly outbox: Outbox) {}`. */
export const InjectOutbox = (): ParameterDecorator & PropertyDecorator => Inject(outboxToken)

export interface HandlesTopicOptions<
  Transaction extends boolean = boolean,
  Batch extends boolean = boolean,
> extends HandlerOptions {
  /** For which consumer. @default the only one */
  readonly consumer?: string | undefined
  /** Whether what the method writes through its context commits together with the completion. @default true */
  readonly transaction?: Transaction | undefined
  /** Whether the method takes a list of messages. @default false */
  readonly batch?: Batch | undefined
  /** Most messages in one call. @default that of a handler */
  readonly batchSize?: number | undefined
  /** With `transaction: false`: how many of a key may be handled and not completed. @default that of the claimer */
  readonly keyWindow?: number | undefined
  /** With a transaction: how many messages, handled one by one, share it. @default that of the claimer */
  readonly runSize?: number | undefined
}

// oxlint-disable-next-line no-explicit-any
type Any = any

/** Without defined topics nobody knows the payload, and a method may say what it expects. */
type Handled<Defined extends Topics, Pattern extends string> =
  string extends PatternsOf<Defined> ? Message<Any> : MessageOf<Defined, Pattern>
type Given<One, Batch extends boolean> = Batch extends true ? readonly One[] : One
/** Who opens the transaction is said where the consumer is described, which no decorator sees: a method takes either context. */
type ContextOf<Transaction extends boolean> = Transaction extends true
  ? TransactionContext<Any> & LibraryContext<Any>
  : HandlerContext

export type HandlesTopicDecorator<Defined extends Topics> = <
  const Pattern extends PatternsOf<Defined>,
  Transaction extends boolean = true,
  Batch extends boolean = false,
>(
  topic: Pattern,
  options?: HandlesTopicOptions<Transaction, Batch>,
) => <
  Method extends (
    message: Given<Handled<Defined, Pattern>, Batch>,
    context: ContextOf<Transaction>,
  ) => unknown,
>(
  prototype: object,
  name: string | symbol,
  descriptor: TypedPropertyDescriptor<Method>,
) => void

/** That a method handles a topic. */
export interface Declaration {
  readonly topic: string
  readonly method: string | symbol
  readonly options: HandlesTopicOptions
}

/** On the prototype, and not on the method: a decorator above may put another function in its place. */
const declared = Symbol.for('twinbox.handles')

/**
 * Has the method of a provider or a controller handle a topic or a pattern: `@HandlesTopic('order.placed')`, with the options of a
 * handler. It gets the message and the context. Guards, pipes and interceptors are for requests, and are not asked.
 * Several of them give one method several topics.
 *
 * @throws OptionError for what is no topic, no pattern or no method
 */
export const HandlesTopic: HandlesTopicDecorator<RegisteredTopics> = decorate

/** The same for the topics that `defineTopics` gives: the method has to take the payload of its topic. */
export function handlesTopicOf<Defined extends Topics>(_topics: Defined): HandlesTopicDecorator<Defined> {
  return decorate
}

function decorate(topic: string, options: HandlesTopicOptions = {}) {
  return (prototype: object, method: string | symbol, descriptor?: PropertyDescriptor): void => {
    const shown = typeof topic === 'string' ? topic.slice(0, 100) : typeof topic
    const where = `@HandlesTopic('${shown}')`
    const no = (text: string, cause?: unknown): never => {
      throw new OptionError('topic', `${where} ${text}`, { cause })
    }
    if (typeof method === 'object')
      no('needs "experimentalDecorators": true in tsconfig.json, as all decorators of Nest do.')
    if (typeof prototype !== 'object' || typeof descriptor?.value !== 'function')
      no(`stands at ${String(method)}, which is no method of an instance.`)
    try {
      // As text, `undefined` would be a topic.
      checkTopicPattern(typeof topic === 'string' ? topic : '')
    } catch (cause) {
      no('has no topic and no pattern, such as order.placed or order.*', cause)
    }
    const own = Object.hasOwn(prototype, declared) ? ownOf(prototype) : []
    Object.defineProperty(prototype, declared, {
      value: [...own, { topic, method, options }],
      configurable: true,
    })
  }
}

const ownOf = (prototype: object): readonly Declaration[] =>
  (prototype as { readonly [declared]?: readonly Declaration[] })[declared] ?? []

/** What the methods of a class handle. A method that a subclass declares anew handles what is said there. */
export function declarationsOf(prototype: object): Declaration[] {
  const found: Declaration[] = []
  for (let at: object | null = prototype; at !== null; at = Object.getPrototypeOf(at) as object | null) {
    if (!Object.hasOwn(at, declared)) continue
    const nearer = new Set(found.map(({ method }) => method))
    found.push(...ownOf(at).filter(({ method }) => !nearer.has(method)))
  }
  return found
}
