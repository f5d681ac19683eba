import { limits } from '../base/options.ts'
import { jsonContentType, type MessageFields } from './message.ts'

/** What a driver makes of a column of each type. A `topic` has nothing in it to escape. Neither it nor an `id` is ever null. */
export interface ValueOf {
  readonly id: string
  readonly topic: string
  readonly text: string | null
  /** As it was published. */
  readonly json: string | null
  readonly bytes: Buffer | null
  readonly time: Date | null
}
export type ColumnType = keyof ValueOf

type TextType = 'topic' | 'text'
type Column = {
  /** The attribute of a CloudEvent in which a broker carries it, besides `id` and `type`. */
  readonly attribute?: string
} & (
  | { readonly type: Exclude<ColumnType, TextType> }
  /** How many bytes it may have when it comes from another system. */
  | { readonly type: TextType; readonly receivedBytes: number }
)

/**
 * The columns that outbox, inbox and all that holds messages have alike, each once. From this follow the statements that write,
 * read and move messages, with their parameters, rows and grants; what a broker carries; and what the inbox takes.
 */
const stored = {
  id: { type: 'id' },
  topic: { type: 'topic', receivedBytes: limits.receivedTopicBytes },
  // https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/partitioning.md
  key: { type: 'text', receivedBytes: limits.keyBytes, attribute: 'partitionkey' },
  headers: { type: 'json' },
  // Null if there is a body.
  payload: { type: 'json' },
  body: { type: 'bytes' },
  content_type: { type: 'text', receivedBytes: limits.receivedTypeBytes },
  published_at: { type: 'time', attribute: 'time' },
  // https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/expirytime.md
  expires_at: { type: 'time', attribute: 'expirytime' },
} as const satisfies Readonly<Record<string, Column>>

export type ColumnName = keyof typeof stored
/** The columns of some types. */
export type ColumnOf<Type extends ColumnType> = {
  [name in ColumnName]: (typeof stored)[name]['type'] extends Type ? name : never
}[ColumnName]

/** A message as the tables store it. */
export type MessageRow = { readonly [name in ColumnName]: ValueOf[(typeof stored)[name]['type']] }

export const columnNames = Object.keys(stored) as readonly ColumnName[]
export const describeColumn = (name: ColumnName): Column => stored[name]
export const namesOf = <const Type extends ColumnType>(types: readonly Type[]): readonly ColumnOf<Type>[] =>
  columnNames.filter((name): name is ColumnOf<Type> => types.some((type) => type === stored[name].type))

/** All columns, for SQL. */
export const messageColumns = columnNames.join(', ')
/** What may be long, and is not always read. */
export const wideColumns = namesOf(['json', 'bytes']).join(', ')
export const narrowColumns = namesOf(['id', 'topic', 'text', 'time']).join(', ')

/** The field of a column: `contentType`. */
export type FieldOf<name extends string> = name extends `${infer first}_${infer rest}`
  ? `${first}${Capitalize<FieldOf<rest>>}`
  : name
export const fieldOf = <const name extends string>(column: name): FieldOf<name> =>
  column.replaceAll(/_(.)/g, (_, letter: string) => letter.toUpperCase()) as FieldOf<name>

/** Columns as fields. */
export type FieldsOf<Names extends ColumnName> = {
  readonly [name in Names as FieldOf<name>]: MessageRow[name]
}

/** What is text and no JSON. */
export const textColumns = namesOf(['topic', 'text']).map((name) => ({
  field: fieldOf(name),
  what: name.replaceAll('_', ' '),
  receivedBytes: stored[name].receivedBytes,
}))

type CarriedColumn = {
  [name in ColumnName]: (typeof stored)[name] extends { readonly attribute: string } ? name : never
}[ColumnName]
export type CarriedFields = FieldsOf<CarriedColumn>

/** What a broker carries in attributes. */
export const carriedColumns = columnNames.flatMap((name) => {
  const { attribute, type } = describeColumn(name)
  return attribute === undefined ? [] : [{ field: fieldOf(name as CarriedColumn), attribute, type }]
})

type ToldRow = Pick<MessageRow, ColumnOf<'id' | 'topic' | 'text'>>

/** What a row says of its message wherever it is told of, content and times aside. */
export const toFields = (row: ToldRow): MessageFields => withFields(row, {})

/** The same, beside what else is told. Set in the object that is given, 0.3 us for each message: spread into a literal, it is 8 us. */
export function withFields<Told extends object>(row: ToldRow, told: Told): Told & MessageFields {
  const fields = told as { -readonly [field in keyof MessageFields]: MessageFields[field] }
  fields.id = row.id
  fields.topic = row.topic
  fields.key = row.key
  fields.contentType = row.content_type ?? jsonContentType
  return told as Told & MessageFields
}

/** A failed attempt, as it was written down. */
export interface FailedAttempt {
  readonly attempt: number
  readonly at: string
  readonly worker: number | null
  readonly error: string
  readonly class: string | null
  /** Where it happened: the first frames. */
  readonly stack: string | null
}

/** What an operator does with messages. */
type MessageAction = 'redrive' | 'skip' | 'prune' | 'erase'

/** And with all else: `set`, `remove`, `pause` and `resume` are done to a schedule. */
export type AuditAction = MessageAction | 'evict' | 'unsubscribe' | 'set' | 'remove' | 'pause' | 'resume'

/** What an operator did: a row of `audit`. */
export interface AuditRow<Action extends AuditAction = MessageAction> {
  readonly action: Action
  readonly at: Date
  /** What they call themselves. */
  readonly who: string
  /** The database's user whose session it was. */
  readonly login: string
  readonly why: string | null
  readonly died_at: Date | null
  readonly attempt: number | null
  readonly reason: string | null
  readonly errors: readonly FailedAttempt[] | null
}
