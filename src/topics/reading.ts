import { printableLabel } from '../base/printable.ts'
import { RetryLaterError } from '../base/errors.ts'
import type { SchemaIssue, SchemaResult } from './schema.ts'
import { versionOf, type TopicDefinition } from './topics.ts'

/**
 * The header by which a message says of which version its payload is; without it, it is of the first. A header passes every broker, the tables
 * and the SQL function as it is, and whoever publishes in another language can set it. `dataschema` of CloudEvents is the address of a
 * schema, and may be one of yours.
 */
export const versionHeader = 'dataversion'

/** What a schema has made of a payload, or why the payload is none of its topic: a text without anything of the payload but paths. */
export type Reading = { readonly value: unknown; readonly wrong?: undefined } | Misfit
export interface Misfit {
  /** Such as `payload.lines[3].price`; the first of what is wrong. */
  readonly path: string
  readonly wrong: string
}

/** What its topic's schema makes of a payload of the present version. What the schema throws is thrown. */
export function readPayload(definition: TopicDefinition, payload: unknown): Reading | Promise<Reading> {
  const result = definition.schema['~standard'].validate(payload)
  return isThenable(result) ? result.then(toReading) : toReading(result)
}

/**
 * The same of a payload that has travelled, and may be of an older version.
 * @throws RetryLaterError for a newer version: another worker may know it, or this one after its next deployment
 */
export function readReceived(
  topic: string,
  definition: TopicDefinition,
  payload: unknown,
  said: string | undefined,
): Reading | Promise<Reading> {
  if (said === undefined && versionOf(definition) === 1) return readPayload(definition, payload)
  const version = said === undefined ? 1 : Number(said)
  if (said !== undefined && !/^[1-9]\d{0,6}$/.test(said))
    return misfit('dataversion', `is no version of a payload, which is a whole number.`)
  if (version > versionOf(definition)) {
    throw new RetryLaterError({
      afterMs: newerMs,
      reason: `The payload is of version ${version}, and this claimer knows "${topic}" up to version ${versionOf(definition)}. Deploy what handles a version before what publishes it.`,
    })
  }
  return raise(definition, payload, version)
}

const newerMs = 60_000

/** One version after the other. */
function raise(definition: TopicDefinition, payload: unknown, from: number): Reading | Promise<Reading> {
  let raised = payload
  for (let version = from; version < versionOf(definition); version++) {
    const upcast = definition.upcast?.[version]
    if (upcast === undefined)
      return misfit('payload', `is of version ${version}, from which there is no upcast.`)
    const failed = (thrown: unknown): Misfit =>
      misfit('payload', `is of version ${version}, and its upcast threw ${kindOf(thrown)}.`)
    try {
      const next = upcast(raised)
      if (isThenable(next))
        return next.then((value) => raise(definition, value, version + 1), failed) as Promise<Reading>
      raised = next
    } catch (thrown) {
      return failed(thrown)
    }
  }
  return readPayload(definition, raised)
}

/** Its class. What it says may quote the payload. */
const kindOf = (thrown: unknown): string => {
  try {
    const name: unknown = thrown instanceof Error ? thrown.constructor.name : typeof thrown
    return typeof name === 'string' && /^\w{1,60}$/.test(name) ? name : 'an error'
  } catch {
    return 'an error'
  }
}

const misfit = (path: string, wrong: string): Misfit => ({ path, wrong: `${path} ${wrong}` })

function toReading(result: SchemaResult<unknown>): Reading {
  if (result.issues === undefined) return { value: result.value }
  const paths = [...new Set(result.issues.slice(0, 100).map(pathOf))]
  const [path = 'payload', ...others] = paths
  const more =
    others.length === 0
      ? ''
      : `, nor do ${others.slice(0, toldMax - 1).join(', ')}${others.length >= toldMax ? ' and more' : ''}`
  return misfit(path, `does not fit the schema of its topic${more}.`)
}

/** So many paths are told, and so much of each: keys of a record are the sender's. */
const toldMax = 5
const stepsMax = 20

function pathOf({ path = [] }: SchemaIssue): string {
  let text = 'payload'
  for (const step of path.slice(0, stepsMax)) {
    const key = typeof step === 'object' ? step.key : step
    if (typeof key === 'number') text += `[${key}]`
    else if (/^[A-Za-z_$][\w$]{0,59}$/.test(String(key))) text += `.${String(key)}`
    else text += `[${JSON.stringify(String(key).slice(0, 60).toWellFormed())}]`
  }
  return printableLabel(text)
}

export function isThenable<Value>(
  value: Value | PromiseLike<Value>,
): value is PromiseLike<Value> & Promise<Value> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function'
}
