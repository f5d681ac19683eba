import { parseHeaders } from '../base/telemetry.ts'
import { checkHeaders } from './headers.ts'
import type { Fail } from './text.ts'

/**
 * Headers with those that a tracer adds, as far as a message may have them: its baggage is an outsider's, and what would be too
 * much of it, or none that travels, is left out rather than failing the caller's transaction.
 */
export function withCarried(
  headers: string | null,
  carried: Readonly<Record<string, string>> | undefined,
): string | null {
  let all = headers
  for (const [name, value] of Object.entries(carried ?? {})) {
    try {
      all = checkHeaders({ ...parseHeaders(all), [name]: value }, leaveOut)
    } catch (error) {
      if (error !== leftOut) throw error
    }
  }
  return all
}

const leftOut = new Error('It is left out.')
const leaveOut: Fail = () => {
  throw leftOut
}
