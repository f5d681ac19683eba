/** What a database error means for whoever met it. By SQLSTATE, never by text: texts are translated. */

/** The SQLSTATE of a server's error, or null. */
export function sqlstate(error: unknown): string | null {
  if (typeof error !== 'object' || error === null || !('code' in error)) return null
  return typeof error.code === 'string' && /^[0-9A-Z]{5}$/.test(error.code) ? error.code : null
}

/**
 * Whether the connection is of no more use: it broke, the server is going down, it has become a read-only standby, or
 * an answer is overdue and would be taken for that of the next statement.
 */
export function isConnectionLost(error: unknown): boolean {
  const state = sqlstate(error)
  if (state !== null) {
    return state.startsWith('08') || /^57P0[1-5]$/.test(state) || state === '25006' || state === '25P03'
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
