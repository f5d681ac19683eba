import { createHash, timingSafeEqual } from 'node:crypto'
import { printable } from '../base/printable.ts'
import type { HealthReport } from './health.ts'

/** What an orchestrator asks. */
export type Probe = 'live' | 'ready'

/**
 * What is answered over HTTP: 200, or 503 if it is not well. Whom strangers reach is told whether all is well; names of consumers, topics
 * and hosts, as problems have them, are for those who may know.
 */
export function answerProbe(
  probe: Probe,
  { live, ready, problems }: HealthReport,
  tellProblems: boolean,
): { readonly status: 200 | 503; readonly body: string } {
  const ok = probe === 'live' ? live : ready
  const body = { ok, live, ready, ...(tellProblems && { problems }) }
  return { status: ok ? 200 : 503, body: `${printable(JSON.stringify(body))}\n` }
}

/** Whether a header is `Bearer` and the token. Compares digests, which are of one length: how long it takes says nothing of the token. */
export function isToken(header: string | undefined, token: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(header ?? ''), digest(`Bearer ${token}`))
}
