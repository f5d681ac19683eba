/**
 * The part of Standard Schema 1 (https://standardschema.dev) that is used here: zod, valibot, arktype and others have it, and none
 * of them is imported.
 */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>
    /** Never there at run time. */
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

/** What a schema makes of a value, or what is wrong with the value. */
export type SchemaResult<Output> =
  { readonly value: Output; readonly issues?: undefined } | { readonly issues: readonly SchemaIssue[] }

/** One thing that is wrong. What its `message` says is never told: it may quote the value. */
export interface SchemaIssue {
  readonly message: string
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

type TypesOfSchema<Schema extends StandardSchema> = NonNullable<Schema['~standard']['types']>
/** What a schema takes: what is published and travels. */
export type InputOf<Schema extends StandardSchema> = TypesOfSchema<Schema>['input']
/** What a schema gives: what a handler gets. */
export type OutputOf<Schema extends StandardSchema> = TypesOfSchema<Schema>['output']

/**
 * A schema that checks nothing: `defineTopics({ 'order.placed': { schema: type<Order>() } })`. The compiler believes it, and what
 * comes off the wire may be something else.
 */
export function type<Payload>(): StandardSchema<Payload> {
  return unchecked as StandardSchema<Payload>
}

const unchecked: StandardSchema = Object.freeze({
  '~standard': Object.freeze({
    version: 1,
    vendor: 'twinbox',
    validate: (value: unknown) => ({ value }),
  }),
})

/** Whether it has what is used here. Those of arktype are functions. */
export function isSchema(value: unknown): value is StandardSchema {
  if ((typeof value !== 'object' && typeof value !== 'function') || value === null) return false
  const standard = (value as Partial<StandardSchema>)['~standard']
  return standard?.version === 1 && typeof standard.validate === 'function'
}

/** The JSON Schema of what a schema takes, where its library can say one: `~standard.jsonSchema` of Standard Schema 1.1. */
export function jsonSchemaOf(schema: StandardSchema): object | null {
  const { jsonSchema } = schema['~standard'] as { jsonSchema?: { input?: (options: object) => unknown } }
  const described = jsonSchema?.input?.({ target: 'draft-07' })
  return typeof described === 'object' && described !== null ? described : null
}
