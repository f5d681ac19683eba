import type { Shared, Views } from './view.ts'
import { doctor } from './views/doctor.ts'
import { overview } from './views/overview.ts'
import { workViews } from './work.ts'

export function viewsOf(shared: Shared): Views {
  const work = workViews(shared)
  return { views: [overview(shared), ...work.views, doctor(shared)], actions: [...work.actions] }
}
