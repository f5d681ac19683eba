import type { Action, Shared, View } from './view.ts'
import { doctor } from './views/doctor.ts'
import { overview } from './views/overview.ts'
import { workViews } from './work.ts'

/** What a dashboard consists of. */
export interface Views {
  /** All pages, in the order of the navigation. */
  readonly views: readonly View[]
  /** All that forms can do. */
  readonly actions: readonly Action[]
}

export function viewsOf(shared: Shared): Views {
  const work = workViews(shared)
  return { views: [overview(shared), ...work.views, doctor(shared)], actions: [...work.actions] }
}
