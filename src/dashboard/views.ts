import { crewViews } from './crew.ts'
import type { Shared, Views } from './view.ts'
import { doctor } from './views/doctor.ts'
import { overview } from './views/overview.ts'
import { workViews } from './work.ts'

export function viewsOf(shared: Shared): Views {
  const [work, crew] = [workViews(shared), crewViews(shared)]
  return {
    views: [overview(shared), ...work.views, ...crew.views, doctor(shared)],
    actions: [...work.actions, ...crew.actions],
  }
}
