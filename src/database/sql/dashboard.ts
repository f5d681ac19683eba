import { perSchema } from './statement.ts'

/** What the dashboard asks beside what other rooms do. None is prepared by name, see operate.ts. */
export const dashboardSql = perSchema('dashboard', () => ({
  // Of each statement of a page: who looks at a page never slows the work for longer.
  limit: "set local statement_timeout = '3s'",
}))
