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
  const jobs = new Jobs()
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
