import { types } from 'node:util'
import { TwinboxError } from '../base/errors.ts'

/** So far along the causes something reads. */
const depthMax = 10

/**
 * What a handler has thrown, if all that is ever read of it can be read; else an error that says so. A proxy, or an error whose
 * getters throw or give no text, would otherwise fail whoever asks what kind it is, and its message would be handled no more.
 */
export function readable(thrown: unknown): unknown {
  try {
    let each = thrown
    for (let depth = 0; each instanceof Error && depth < depthMax; depth++) {
      if (!isPlain(each)) return unreadable()
      each = each instanceof AggregateError ? (each.errors as unknown[])[0] : each.cause
    }
    return types.isProxy(each) ? unreadable() : thrown
  } catch {
    return unreadable()
  }
}

function isPlain(error: Error): boolean {
  const { name, message, stack } = error as { name: unknown; message: unknown; stack?: unknown }
  return (
    !types.isProxy(error) &&
    typeof name === 'string' &&
    typeof message === 'string' &&
    (stack === undefined || typeof stack === 'string') &&
    !types.isProxy('code' in error ? error.code : null)
  )
}

const unreadable = (): TwinboxError =>
  new TwinboxError(
    'UNREADABLE_ERROR',
    'The handler threw something of which neither name nor message can be read: a proxy, or an error whose properties throw. Throw an Error.',
  )
