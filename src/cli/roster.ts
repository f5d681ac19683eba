import type { WorkerKind } from '../base/events.ts'
import {
  evictWorkers,
  readWorkers,
  tellEviction,
  workerLimit,
  type Eviction,
  type WorkerStatus,
} from '../operate/workers.ts'
import type { Flags } from '../terminal/flags.ts'
import { ms } from './log.ts'
import { show } from './screen.ts'
import { signatureOf, type SignatureFlags } from './signature.ts'
import { readSettings } from './settings.ts'
import { fold } from '../terminal/prose.ts'
import { section, type Section } from '../terminal/section.ts'
import { table } from '../terminal/table.ts'
import { explain, remark, say } from '../terminal/output.ts'

export interface RosterFlags extends Flags {
  readonly kind?: WorkerKind
  readonly ended?: boolean
}

/** Shows who works, once or until a signal. */
export async function showWorkers(flags: RosterFlags): Promise<void> {
  const { consumer, kind, ended, json = false } = flags
  await show(flags, async (from, schema) => {
    const workers = await readWorkers(from, { schema, consumer, kind })
    const at = new Date()
    return (width) => {
      if (json) return JSON.stringify({ schema, at, workers })
      if (workers.length === 0 && (consumer ?? kind) !== undefined) return 'No such worker is running.'
      const limit = workers.length < workerLimit ? [] : [section(`These are the first ${workerLimit}.`)]
      return [renderWorkers(workers, at, { width, ended }), ...limit]
    }
  })
}

/**
 * Workers as a table. Those that have ended are one line below it, or they would take more room than those who live; `ended` lists
 * them as well.
 */
export function renderWorkers(
  workers: readonly WorkerStatus[],
  at: Date,
  { width = Infinity, ended = false }: { readonly width?: number; readonly ended?: boolean | undefined } = {},
): Section {
  const listed = workers.filter(({ endedAt }) => ended || endedAt === null)
  const others = workers.filter(({ endedAt }) => !ended && endedAt !== null)
  const foot = others.length === 0 ? '' : fold(countEnded(others), width)
  const feet = foot === '' ? [] : foot.split('\n')
  if (listed.length === 0) return section('No worker is running.', feet)
  const ageOf = (time: Date | null, until = at): string =>
    time === null ? '-' : ms(Math.max(0, until.getTime() - time.getTime()))
  const rows = listed.map((worker) => [
    String(worker.id),
    worker.kind,
    worker.consumer ?? '-',
    stateOf(worker),
    ageOf(worker.startedAt, worker.endedAt ?? at),
    ms(worker.lastBeatMs),
    worker.kind === 'receiver' ? '-' : String(worker.lanes.length),
    ageOf(worker.lanesSince),
    String(worker.inFlight),
    worker.endedAt !== null ? '-' : worker.locked ? 'yes' : worker.session ? 'session' : 'no',
    worker.host,
    String(worker.pid),
    worker.version,
  ])
  const cuts = { consumer: 'middle', host: 'middle' } as const
  return section(table(head, rows, { width, drops, cuts }), feet)
}

const head = [
  ...['id', 'kind', 'consumer', 'state', 'up', 'beat', 'lanes', 'since', 'in flight', 'lock', 'host', 'pid'],
  'version',
]
/** What an operator misses last: who it is, whether it lives, and what it has in flight. */
const drops = ['version', 'pid', 'up', 'since', 'lock', 'lanes', 'host']

const stateOf = ({ state, endedBy }: WorkerStatus): string => (state === 'died' ? `died: ${endedBy}` : state)

/** `5 ended in the last ten minutes: 3 stopped, 2 died: lock.` */
function countEnded(workers: readonly WorkerStatus[]): string {
  const counts = new Map<string, number>()
  for (const worker of workers) counts.set(stateOf(worker), (counts.get(stateOf(worker)) ?? 0) + 1)
  const states = [...counts].map(([state, count]) => `${count} ${state}`).join(', ')
  return `${workers.length} ended in the last ten minutes: ${states}. twinbox workers --ended lists them.`
}

/** Evicts, and tells what became of each id. 1 if any of them could not be evicted. */
export async function evict(ids: readonly number[], flags: Flags & SignatureFlags): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const eviction = await evictWorkers(database(), ids, { schema, ...signatureOf(flags) })
  if (flags.json === true) say(JSON.stringify(eviction))
  else tell(eviction, schema)
  return eviction.evicted.length === new Set(ids).size ? 0 : 1
}

function tell(eviction: Eviction, schema: string): void {
  const { done, follows, not } = tellEviction(eviction, schema)
  for (const line of done) say(line)
  if (follows !== null) explain(follows)
  for (const line of not) remark(line)
}
