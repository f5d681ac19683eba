/** What a database error means for whoever met it. By SQLSTATE, never by text: texts are translated. */

/** The SQLSTATE of a server's error, or null. */
export function sqlstate(error: unknown): string | null {
  if (typeof error !== 'object' || error === null || !('code' in error)) return null
  return typeof error.code === 'string' && /^[0-9A-Z]{5}$/.test(error.code) ? error.code : null
}

/** Data libraries wrap the server's error, each in its own way, and some have codes of their own that look like its. */
const wrapped = [
  ...['cause', 'driverError', 'driverAdapterError', 'original', 'originalError', 'nativeError', 'meta'],
] as const

/** The SQLSTATEs of an error and of what it wraps, outermost first, and what looks like one. */
export function statesOf(error: unknown, depth = 0): string[] {
  if (typeof error !== 'object' || error === null || depth === 5) return []
  const inner = wrapped.flatMap((name) => statesOf((error as Record<string, unknown>)[name], depth + 1))
  const own = sqlstate(error)
  return own === null ? inner : [own, ...inner]
}

/**
 * Whether an error that a connection or a statement of ours has met means that the connection is of no more use: it
 * broke, the server is going down, it has become a read-only standby, or an answer is overdue and would be taken for that
 * of the next statement. Of an error that somebody else has thrown it says nothing, see `evidence.ts`.
 */
export function isConnectionLost(error: unknown): boolean {
  const state = sqlstate(error)
  if (state !== null) {
    return /^(08|57P0[1-5]|25006|25P0[34])/.test(state)
  }
  if (!(error instanceof Error)) return false
  const code = 'code' in error ? String(error.code) : ''
  return (
    /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|ENOENT)/.test(code) ||
    // pg gives these no code.
    /^(Connection terminated|Query read timeout|timeout exceeded|timeout expired|Client has encountered|Client was closed|read E|write E)/i.test(
      error.message,
    )
  )
}

/** Whether trying again by itself makes sense: a lost connection, a deadlock, a lock time-out, a full server. */
export function isPassing(error: unknown): boolean {
  const state = sqlstate(error)
  return (
    isConnectionLost(error) ||
    (state !== null &&
      (/^(40|53)/.test(state) || state === '55P03' || state === '57014' || state === '25P02'))
  )
}

/**
 * Whether it, or what has caused it, is a transaction that lost against another one, a serialization failure or a
 * deadlock: the same again may well succeed at once.
 */
export function isConflict(error: unknown): boolean {
  // Counted, since an error may be its own cause's cause.
  for (let each = error, depth = 0; each instanceof Error && depth < 10; each = each.cause, depth++) {
    if (/^(40001|40P01)$/.test(sqlstate(each) ?? '')) return true
  }
  return false
}

/** Whether a connection's prepared statement is not there, or somebody else's is: a pooler shares its sessions. */
export const isUnknownStatement = (state: string | null): boolean => state === '26000' || state === '42P05'

/**
 * Whether a statement failed by what was to be stored, and will fail again with it: invalid data, a broken constraint,
 * a limit of Postgres, or a text that is longer than JavaScript can make. A number that is taken (23505) is no content: the
 * sequence has gone back, and gives another one the next time.
 */
export function isContentError(error: unknown): boolean {
  return error instanceof RangeError || /^(22|23(?!505)|54)/.test(sqlstate(error) ?? '')
}
