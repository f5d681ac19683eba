import { OptionError } from '../base/errors.ts'
import { refuseUnknown, whole } from '../base/options.ts'
import { checkTopic } from '../message/check.ts'
import { isSchema, type InputOf, type OutputOf, type StandardSchema } from './schema.ts'

/** What the compiler knows of a topic: the payload as it is published, and as a handler gets it. */
export interface TopicType {
  readonly published: unknown
  readonly handled: unknown
}
export interface TopicTypes {
  readonly [topic: string]: TopicType
}

/** A method, so that a function may say more of its parameter than is known of it here. */
interface Callable<Payload> {
  call(payload: Payload): unknown
}

/** What is known of one topic. */
export interface TopicDefinition<Schema extends StandardSchema = StandardSchema> {
  /** What the payload is: a schema of zod, valibot, arktype or any other library with Standard Schema, or `type<T>()`. */
  readonly schema: Schema
  /** The key of a message that gives none itself, made of the payload as a handler gets it. @default none */
  readonly key?: { key(payload: OutputOf<Schema>): string | null | undefined }['key'] | undefined
  /** What it is about, for those who read `twinbox topics`. */
  readonly summary?: string | undefined
  /** Of the payload; raise it with a change that old handlers cannot read. From 1 to 1,000,000. @default 1 */
  readonly version?: number | undefined
  /**
   * By an older version, what makes a payload of it one of the next version. What the last one gives goes through the schema.
   * It must not change what it is given, and may be async.
   */
  readonly upcast?: Readonly<Record<number, Callable<unknown>['call']>> | undefined
  /** The JSON Schema (draft 7) of what is published, where the schema's library cannot say it by itself. */
  readonly jsonSchema?: object | undefined
}

/** Topics with their payloads, as `defineTopics` gives them. */
export interface Topics<Types extends TopicTypes = TopicTypes> {
  /** In the order of their definition: what a receiver takes as its `topics`. */
  readonly names: readonly string[]
  readonly definitions: ReadonlyMap<string, TopicDefinition>
  /** For the compiler; never there at run time. */
  readonly types?: Types
}

type Defined<Schemas extends Readonly<Record<string, StandardSchema>>> = {
  readonly [Topic in keyof Schemas & string]: {
    readonly published: InputOf<Schemas[Topic]>
    readonly handled: OutputOf<Schemas[Topic]>
  }
}

/**
 * Says once which topics there are and what their payloads are, for whoever publishes and whoever handles. `createOutbox({ topics })`
 * takes no other topic and no other payload, by the compiler and when it runs; in `createClaimer({ topics, … })` handlers get the payload's type, and
 * what does not fit becomes a dead letter.
 *
 * @throws OptionError for a definition that cannot work
 */
export function defineTopics<Schemas extends Readonly<Record<string, StandardSchema>>>(definitions: {
  readonly [Topic in keyof Schemas]: TopicDefinition<Schemas[Topic]>
}): Topics<Defined<Schemas>> {
  if (typeof definitions !== 'object' || definitions === null)
    throw new OptionError('topics', 'defineTopics takes an object of definitions by topic.')
  const all = Object.entries<TopicDefinition>(definitions)
  if (all.length === 0) throw new OptionError('topics', 'defineTopics needs at least one topic.')
  const checked = new Map(all.map(([topic, definition]) => [topic, check(topic, definition)]))
  return Object.freeze({ names: [...checked.keys()], definitions: checked })
}

export const versionOf = ({ version = 1 }: TopicDefinition): number => version

function check(topic: string, given: TopicDefinition): TopicDefinition {
  const name = topic.slice(0, 100)
  const no = (text: string): never => {
    throw new OptionError('topics', `The topic "${name}" ${text}`)
  }
  checkTopic(topic, (_code, _path, text) => no(`is no name of a topic: it ${text}`))
  if (typeof given !== 'object' || given === null || isSchema(given))
    no('needs a definition: { schema }, with a schema of zod, valibot or arktype, or type<T>().')
  refuseUnknown(`the topic "${name}"`, given, ['schema', 'key', 'summary', 'version', 'upcast', 'jsonSchema'])
  const { schema, key, summary, upcast, jsonSchema } = given
  if (!isSchema(schema))
    no('needs a schema that has Standard Schema 1: one of zod, valibot or arktype, or type<T>().')
  if (key !== undefined && typeof key !== 'function')
    no('has a key that is no function of its payload: key: (payload) => payload.id')
  if (summary !== undefined && typeof summary !== 'string') no('has a summary that is no text.')
  if (jsonSchema !== undefined && (typeof jsonSchema !== 'object' || jsonSchema === null))
    no('has a jsonSchema that is no object.')
  const version = whole(`version of the topic "${name}"`, given.version, 1, 1, 1_000_000)
  const isUpcast = typeof upcast === 'object' && upcast !== null
  if (upcast !== undefined && !isUpcast) no('has an upcast that is no object of functions by version.')
  for (const [from, raise] of Object.entries(upcast ?? {})) {
    const number = Number(from)
    if (String(number) !== from || !Number.isInteger(number) || number < 1 || number >= version)
      no(
        `has an upcast from "${from.slice(0, 20)}", but is itself of version ${version}: upcasts are from the versions before.`,
      )
    if (typeof raise !== 'function') no(`has an upcast from version ${from} that is no function.`)
    for (let next = number + 1; next < version; next++)
      if (upcast?.[next] === undefined)
        no(`has an upcast from version ${from}, and none from version ${next}: each goes one version up.`)
  }
  return Object.freeze({ ...given, ...(isUpcast && { upcast: Object.freeze({ ...upcast }) }) })
}

/** The option `topics`; null without one. @throws OptionError */
export function readTopics(where: string, topics: Topics | undefined): Topics | null {
  if (topics === undefined) return null
  if (typeof topics === 'object' && topics !== null && topics.definitions instanceof Map) return topics
  throw new OptionError(
    'topics',
    `topics of ${where} must be what defineTopics gives. A receiver takes names and patterns, such as topics.names.`,
  )
}
