import type { Action, Shared, View } from './view.ts'
import { doctor } from './views/doctor.ts'
import { overview } from './views/overview.ts'

/** What a dashboard consists of. */
export interface Views {
  /** All pages, in the order of the navigation. */
  readonly views: readonly View[]
  /** All that forms can do. */
  readonly actions: readonly Action[]
}

export const viewsOf = (shared: Shared): Views => ({
  views: [overview(shared), doctor(shared)],
  actions: [],
})
