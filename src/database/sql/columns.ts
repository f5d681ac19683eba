import {
  namesOf,
  describeColumn,
  fieldOf,
  type ColumnName,
  type ColumnOf,
  type ColumnType,
  type FieldOf,
  type MessageRow,
  type ValueOf,
} from '../../message/row.ts'
import {
  asText,
  bytea,
  bytesOrEmpty,
  json,
  jsons,
  like,
  optional,
  plainTexts,
  sparse,
  text,
  texts,
  textsOrEmpty,
  timestamptzs,
  uuid,
  uuids,
  type Parameter,
} from './parameter.ts'
import { parted } from './qualified.ts'

/** The columns of a message as parameters of the statements that bring one into the tables. Each is named as its field. */

/** What Postgres calls them. */
export const types: Readonly<Record<ColumnType, string>> = {
  ...{ id: 'uuid', topic: 'text', text: 'text', json: 'json', bytes: 'bytea', time: 'timestamptz' },
}

/** Columns of the types that are named, for one message. */
const one = <Type extends ColumnType>(byType: {
  readonly [type in Type]: Parameter<ValueOf[type]>
}): { readonly [name in ColumnOf<Type> as FieldOf<name>]: Parameter<MessageRow[name]> } =>
  parametersOf(byType)

/** The same for several, each a list. */
const several = <Type extends ColumnType>(byType: {
  readonly [type in Type]: Parameter<readonly ValueOf[type][]>
}): { readonly [name in ColumnOf<Type> as FieldOf<name>]: Parameter<readonly MessageRow[name][]> } =>
  parametersOf(byType)

function parametersOf<Takes>(byType: object): Takes {
  const parameters = byType as Readonly<Record<ColumnType, unknown>>
  const names = namesOf(Object.keys(parameters) as ColumnType[])
  return Object.fromEntries(
    names.map((name) => [fieldOf(name), parameters[describeColumn(name).type]]),
  ) as Takes
}

// What is published comes as texts, but the bytes of a body: data libraries have ideas of their own of JSON, arrays and dates, and
// would store something else. Its times are not among these: they have a statement of their own.
export const publishedOne = one({
  id: asText(uuid),
  topic: text,
  text: optional(text),
  json: asText(optional(json)),
  bytes: like(optional(bytea), 'null'),
})
export const publishedSeveral = several({
  id: asText(uuids),
  topic: asText(plainTexts),
  text: asText(textsOrEmpty),
  json: jsons,
  bytes: asText(bytesOrEmpty),
})
export const publishedColumns = namesOf(['id', 'topic', 'text', 'json', 'bytes'])

/** The bytes of all come together, see `pieces`. */
export const receivedSeveral = several({
  id: uuids,
  topic: texts,
  text: sparse(texts),
  json: jsons,
  time: sparse(timestamptzs),
})
export const receivedColumns = namesOf(['id', 'topic', 'text', 'json', 'time'])

/** Columns one after the other, each as its type wants it. */
export const listed = <Names extends ColumnName>(
  names: readonly Names[],
  write: (name: Names, type: ColumnType) => string,
): string => names.map((name) => write(name, describeColumn(name).type)).join(', ')

/** A list of several, as `unnest` takes it. */
export const arrayOf = (name: ColumnName, type: ColumnType): string =>
  type === 'json' ? parted(`$${fieldOf(name)}`) : `$${fieldOf(name)}`

/** Of several messages, the values of each column, as `read` gives them. */
export const valuesOf = <Names extends ColumnName, Told>(
  names: readonly Names[],
  messages: readonly Told[],
  read: (message: Told, field: FieldOf<Names>) => unknown,
): { readonly [name in Names as FieldOf<name>]: readonly MessageRow[name][] } =>
  Object.fromEntries(
    names.map((name) => {
      const field = fieldOf(name)
      return [field, messages.map((message) => read(message, field))]
    }),
  ) as never
