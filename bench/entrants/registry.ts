import type { Entrant } from '../race/entrant.ts'

/** Where entrants are found. Imported when needed: a process has only what it runs in its memory. */
const modules: Readonly<
  Record<string, () => Promise<{ readonly entrants: Readonly<Record<string, Entrant>> }>>
> = {
  twinbox: () => import('./twinbox.ts'),
  'graphile-worker': () => import('./graphile.ts'),
  'pg-boss': () => import('./pgboss.ts'),
  'pg-transactional-outbox': () => import('./transactional.ts'),
  status: () => import('./status.ts'),
  bare: () => import('./bare.ts'),
}

/** @param name the module and which of its entrants, as in `twinbox claim` */
export async function findEntrant(name: string): Promise<Entrant> {
  const [module, which] = name.split(' ') as [string, string]
  const found = (await modules[module]?.())?.entrants[which]
  if (found === undefined) throw new Error(`There is no entrant "${name}".`)
  return found
}
