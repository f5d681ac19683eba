import type { Shared, Views } from './view.ts'
import { evict, evictPage } from './views/evict.ts'
import { pauseActions, pausePage } from './views/pause.ts'
import { schedules } from './views/schedules.ts'
import { subscriptions } from './views/subscriptions.ts'
import { workers } from './views/workers.ts'

/** Who works, what recurs, and who wants what. */
export const crewViews = (shared: Shared): Views => ({
  views: [workers(shared), evictPage(shared), schedules(shared), pausePage(shared), subscriptions(shared)],
  actions: [evict(shared), ...pauseActions(shared)],
})
