import type { MessageErrorCode } from '../base/errors.ts'

/** Told what is wrong with which part of a message; throws. */
export type Fail = (code: MessageErrorCode, path: string, text: string) => never

/** A text of a message that names something: not empty, and stored as it is. */
export function checkText(
  path: string,
  value: unknown,
  maxBytes: number,
  code: MessageErrorCode,
  fail: Fail,
): void {
  if (typeof value !== 'string') {
    // String({}) would give every message the same key, and drop all but one as duplicates.
    return fail(code, path, `must be a string, but is of type ${typeof value}.`)
  }
  if (value === '') fail(code, path, 'may not be empty; leave it out instead.')
  const size = Buffer.byteLength(value)
  if (size > maxBytes) fail(code, path, `has ${size} bytes, but the limit is ${maxBytes}.`)
  checkStorable(path, value, fail)
}

/** What Postgres stores as it is. */
export function checkStorable(path: string, value: string, fail: Fail): void {
  if (value.includes('\0'))
    fail('INVALID_TEXT', path, 'contains a NUL character, which Postgres cannot store.')
  // Buffer.from would quietly replace a lone surrogate by U+FFFD: two different keys would become one.
  if (!value.isWellFormed())
    fail('INVALID_TEXT', path, 'contains a lone surrogate, so it is not valid Unicode text.')
}
