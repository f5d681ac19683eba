/** A parameter of a statement: its type in Postgres, and what a value of ours becomes for the driver. */
export interface Parameter<in Value> {
  /** The text casts the parameter to this type wherever it stands, so that no operator or function is looked up by a guess. */
  readonly type: string
  readonly encode: (value: Value) => unknown
  /** A literal with which the statement runs, for whoever reads it in psql. */
  readonly example: string
}

export type Parameters = Readonly<Record<string, Parameter<never>>>

/** What a statement with these parameters is given. */
export type ValuesOf<Takes extends Parameters> = {
  readonly [name in keyof Takes]: Takes[name] extends Parameter<infer Value> ? Value : never
}

const asItIs = <Value>(value: Value): Value => value
const scalar = <Value>(type: string, example: string): Parameter<Value> => ({ type, encode: asItIs, example })
/** The driver would look in each number or id for what has to be escaped. */
const list = <Value extends number | string>(type: string, example: string): Parameter<readonly Value[]> => ({
  type: `${type}[]`,
  encode: arrayText,
  example: `'{${example}}'`,
})

export const text = scalar<string>('text', "'c'")
export const int = scalar<number>('int', '1')
export const smallint = scalar<number>('smallint', '1')
export const bigint = scalar<number>('bigint', '1')
export const float8 = scalar<number>('float8', '1000')
export const boolean = scalar<boolean>('boolean', 'true')
export const uuid = scalar<string>('uuid', "'00000000-0000-7000-8000-000000000000'")
export const bytea = scalar<Buffer>('bytea', String.raw`'\x00'`)
/** The name of a role or of another object. */
export const identifier = scalar<string>('name', 'current_user')
export const numeric = scalar<string>('numeric', '1')
export const json = scalar<string>('json', "'{}'")
export const timestamptz = scalar<Date>('timestamptz', "'2026-01-01Z'")

export const smallints = list<number>('smallint', '1')
export const ints = list<number>('int', '1')
export const bigints = list<number>('bigint', '1')
export const uuids = list<string>('uuid', '00000000-0000-7000-8000-000000000000')
export const float8s = list<number>('float8', '1000')
export const texts = scalar<readonly string[]>('text[]', "'{c}'")
export const intsOrNull = scalar<readonly (number | null)[]>('int[]', "'{1}'")
/** Texts in which nothing has to be escaped but a comma or a brace. */
export const plainTexts: Parameter<readonly string[]> = {
  type: 'text[]',
  encode: (values) => `{"${values.join('","')}"}`,
  example: "'{c}'",
}
export const jsonbs = scalar<readonly string[]>('jsonb[]', '\'{"{}"}\'')
export const booleans = scalar<readonly boolean[]>('boolean[]', "'{true}'")
export const timestamptzs = scalar<readonly Date[]>('timestamptz[]', "'{2026-01-01Z}'")

/** The same with an example that suits one statement better. */
export const like = <Value>(parameter: Parameter<Value>, example: string): Parameter<Value> => ({
  ...parameter,
  example,
})

/** Null as well. */
export const optional = <Value>(parameter: Parameter<Value>): Parameter<Value | null> => ({
  ...parameter,
  encode: (value) => (value === null ? null : parameter.encode(value)),
})

/** Sent as a text whatever it is, by drivers that have ideas of their own of JSON, arrays, numbers and dates. */
export const asText = <Value>({ type, encode, example }: Parameter<Value>): Parameter<Value> => ({
  type: type === 'text' ? type : `text::${type}`,
  encode: (value) => {
    const encoded = encode(value)
    return encoded === null || typeof encoded === 'string' ? encoded : JSON.stringify(encoded)
  },
  example,
})

/**
 * A list for a column of `unnest` with nulls in it. One of nulls alone is a null, which `unnest` fills up. For `any` and `all`
 * that would be another thing.
 */
export const sparse = <Value>({
  type,
  example,
}: Parameter<readonly Value[]>): Parameter<readonly (Value | null)[]> => ({
  type,
  encode: (values) => (values.every((value) => value === null) ? null : values),
  example,
})

/** For each row numbers of its own, or null: an array in text each, since in an array of arrays all have one length. */
export const numberLists: Parameter<readonly (readonly number[] | null)[]> = {
  type: 'text[]',
  encode: (values) =>
    values.every((value) => value === null) ? null : values.map((value) => value && arrayText(value)),
  example: `'{"{1}"}'`,
}

/** The same for texts. */
export const textLists: Parameter<readonly (readonly string[])[]> = {
  type: 'text[]',
  encode: (values) => values.map((value) => textArray(value) ?? '{}'),
  example: `'{"{c}"}'`,
}

/** JSON texts, see `joined`; the statement takes them apart with `parted`. */
export const jsons: Parameter<readonly (string | null)[]> = {
  type: 'text',
  encode: joined,
  example: "'{}'",
}

/** Numbers or ids as Postgres reads an array from text. */
export function arrayText(values: readonly (number | string)[]): string {
  return `{${values.join(',')}}`
}

/**
 * JSON texts as one text, which costs a fraction of an array: in that, each quotation mark is escaped, and JSON has
 * many. No JSON contains the separator. Null if there is none at all.
 */
export function joined(values: readonly (string | null)[]): string | null {
  return values.every((value) => value === null) ? null : values.join('\x1e')
}

/** JSON texts, of which many may be alike: each once, and for each text its number among those, from 1 on. */
export function distinct(values: readonly (string | null)[]): {
  numbers: readonly (number | null)[]
  once: readonly string[]
} {
  const numbers = new Map<string, number>()
  const given = values.map((value) => {
    if (value === null) return null
    const number = numbers.get(value) ?? numbers.size + 1
    numbers.set(value, number)
    return number
  })
  return { numbers: given, once: [...numbers.keys()] }
}

/**
 * Texts as an array in text, null as the empty one, which none of them may be: what a driver makes of an array, and whether
 * `array_nulls` is on, decides nothing then. Null if there is none at all; `unnest` fills the column up.
 */
export function textArray(values: readonly (string | null)[]): string | null {
  if (values.every((value) => value === null)) return null
  return `{${values.map((value) => (value === null ? '""' : `"${escaped(value)}"`)).join(',')}}`
}

/** The same as a parameter. */
export const textsOrEmpty: Parameter<readonly (string | null)[]> = {
  type: 'text[]',
  encode: textArray,
  example: "'{c}'",
}

const escaped = (value: string): string =>
  /["\\]/.test(value) ? value.replaceAll(/["\\]/g, String.raw`\$&`) : value

/** The same of bytes, in hex. Null is the empty bytes: whether there are any, another column has to tell. */
export const bytesOrEmpty: Parameter<readonly (Buffer | null)[]> = {
  type: 'bytea[]',
  encode: (values) => textArray(values.map((bytes) => bytes && String.raw`\x${bytes.toString('hex')}`)),
  example: String.raw`'{"\\x00"}'`,
}

/**
 * Bytes of several rows as one parameter, and of each row the place and the length in it, null if it has none. The driver
 * would write an array of bytes as text, in hexadecimals: twice as long, and at 256 MB longer than a text may be.
 */
export function pieces(rows: readonly (Uint8Array | null)[]): {
  bytes: Buffer | null
  starts: readonly (number | null)[]
  sizes: readonly (number | null)[]
} {
  let end = 1
  const isEmpty = rows.every((row) => row === null)
  return {
    bytes: isEmpty ? null : Buffer.concat(rows.filter((row) => row !== null)),
    starts: rows.map((row) => (row === null ? null : (end += row.byteLength) - row.byteLength)),
    sizes: rows.map((row) => row?.byteLength ?? null),
  }
}
