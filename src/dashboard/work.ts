import { Jobs } from './jobs.ts'
import type { Shared, Views } from './view.ts'
import { auditView } from './views/audit.ts'
import { deadViews } from './views/dead.ts'
import { eraseActions, eraseView } from './views/erase.ts'
import { jobActions, jobViews } from './views/jobs.ts'
import { keyView } from './views/key.ts'
import { letterActions, letterChangeView } from './views/letterchange.ts'
import { messageView } from './views/message.ts'
import { messagesView } from './views/messages.ts'
import { parkedActions, parkedViews } from './views/parked.ts'

/** Messages, and what operators do with them. */
export function workViews(shared: Shared): Views {
  const jobs = new Jobs(
    () => shared.poller.now(),
    rarely(() => shared.poller.tell()),
  )
  shared.onClose(() => jobs.close())
  return {
    views: [
      ...[messagesView(shared), messageView(shared), keyView(shared)],
      ...[...deadViews(shared), letterChangeView(shared), ...parkedViews(shared), eraseView(shared)],
      ...[...jobViews(jobs), auditView(shared)],
    ],
    actions: [
      ...[
        letterActions(shared, jobs),
        parkedActions(shared, jobs),
        eraseActions(shared, jobs),
        jobActions(jobs),
      ].flat(),
    ],
  }
}

/** A batch of a job may take milliseconds, and nobody reads that fast. */
const paceMs = 500

/** Calls at most so often, and after the last time as well. */
function rarely(call: () => void): () => void {
  let timer: NodeJS.Timeout | null = null
  return () => {
    timer ??= setTimeout(() => {
      timer = null
      call()
    }, paceMs).unref()
  }
}
