import type { DatabaseInput } from '../database/database.ts'
import type { WorkerKind } from '../base/events.ts'
import {
  evictWorkers,
  readWorkers,
  workerLimit,
  type Eviction,
  type WorkerStatus,
} from '../operate/workers.ts'
import type { Flags } from '../terminal/flags.ts'
import { ms } from './log.ts'
import { plainWidth, show } from './screen.ts'
import { readSettings } from './settings.ts'
import { table } from '../terminal/table.ts'
import { remark, say } from '../terminal/output.ts'

export interface RosterFlags extends Flags {
  readonly kind?: WorkerKind
}

/** Shows who works, once or until a signal. */
export async function showWorkers(flags: RosterFlags): Promise<void> {
  const { schema } = await readSettings(flags)
  const { consumer, kind, json = false } = flags
  const read = (from: DatabaseInput): Promise<WorkerStatus[]> => readWorkers(from, { schema, consumer, kind })
  const some = consumer !== undefined || kind !== undefined
  const draw = (workers: readonly WorkerStatus[], width: number): string => {
    if (json) return JSON.stringify({ schema, at: new Date(), workers })
    if (workers.length === 0 && some) return 'No such worker is running.'
    const more = workers.length < workerLimit ? '' : `\nThese are the first ${workerLimit}.`
    return renderWorkers(workers, new Date(), width) + more
  }
  await show(flags, async (from, width) => draw(await read(from), width))
}

/** Shorter, a name says nothing; no host has a longer one. */
const [nameMin, nameMax] = [8, 255]

/** Workers as a table that fits into a width, if need be by shortening the names of consumers and hosts. */
export function renderWorkers(
  workers: readonly WorkerStatus[],
  at: Date,
  width: number = plainWidth,
): string {
  if (workers.length === 0) return 'No worker is running.'
  const ageOf = (time: Date | null, until = at): string =>
    time === null ? '-' : ms(Math.max(0, until.getTime() - time.getTime()))
  const draw = (most: number): string =>
    table(
      [
        'id',
        'kind',
        'consumer',
        'state',
        'up',
        'beat',
        'lanes',
        'since',
        'in flight',
        'lock',
        'host',
        'pid',
        'version',
      ],
      workers.map((worker) => [
        String(worker.id),
        worker.kind,
        shortened(worker.consumer ?? '-', most),
        worker.state === 'died' ? `died: ${worker.endedBy}` : worker.state,
        ageOf(worker.startedAt, worker.endedAt ?? at),
        ms(worker.lastBeatMs),
        worker.kind === 'receiver' ? '-' : String(worker.lanes.length),
        ageOf(worker.lanesSince),
        String(worker.inFlight),
        worker.endedAt !== null ? '-' : worker.locked ? 'yes' : worker.session ? 'session' : 'no',
        shortened(worker.host, most),
        String(worker.pid),
        worker.version,
      ]),
    )
  const lengths = workers.flatMap(({ consumer, host }) => [consumer?.length ?? 1, host.length])
  const longest = Math.min(nameMax, Math.max(...lengths))
  const fits = (most: number): boolean =>
    draw(most)
      .split('\n')
      .every((line) => line.length <= width)
  if (fits(longest)) return draw(longest)
  let [low, high] = [nameMin, Math.max(nameMin, longest)]
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (fits(middle)) low = middle
    else high = middle - 1
  }
  return draw(low)
}

/** Without its middle: consumers differ in their beginning, hosts of a fleet in their end. */
function shortened(name: string, max: number): string {
  if (name.length <= max) return name
  const tail = Math.floor((max - 1) / 2)
  return `${name.slice(0, max - 1 - tail)}…${name.slice(name.length - tail)}`
}

/** Evicts, and tells what became of each id. 1 if any of them could not be evicted. */
export async function evict(ids: readonly number[], flags: Flags): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const eviction = await evictWorkers(database(), ids, { schema })
  if (flags.json === true) say(JSON.stringify(eviction))
  else tell(eviction, schema)
  return eviction.evicted.length === new Set(ids).size ? 0 : 1
}

function tell({ evicted, unknown, ended }: Eviction, schema: string): void {
  for (const id of evicted) say(`Evicted worker ${id}.`)
  if (evicted.length > 0) {
    say('Others of its kind take its work over now. If its process lives, it comes back under a new id.')
  }
  for (const id of unknown) remark(`There is no worker ${id} in the schema "${schema}".`)
  for (const id of ended) {
    remark(`Worker ${id} had already ended, so there is nothing to take from it.`)
  }
}
