import type { DatabaseInput } from '../database/database.ts'
import { operateSql, type EvictRow, type WorkerRow } from '../database/sql/operate.ts'
import { OptionError } from '../base/errors.ts'
import type { DeathSign, WorkerKind } from '../base/events.ts'
import { sign, type Signature } from './filter.ts'
import { withTables } from './tables.ts'
import { checkConsumer, numberOptions, oneOf, refuseUnknown } from '../base/options.ts'

export const workerKinds = ['relay', 'receiver', 'claimer'] as const satisfies readonly WorkerKind[]

/** A worker as its row, its lanes and the server's locks show it. */
export interface WorkerStatus {
  readonly id: number
  readonly kind: WorkerKind
  /** Null for a relay. */
  readonly consumer: string | null
  readonly host: string
  readonly pid: number
  readonly version: string
  readonly startedAt: Date
  /** Age of its last heartbeat, by the database's clock. */
  readonly lastBeatMs: number
  /** When that was. Of a worker that was found dead, `endedAt` is so much later as it took to find out. */
  readonly beatAt: Date
  readonly alive: boolean
  /**
   * `silent` (no heartbeat for longer than `deadAfterMs` by default) and `gone` (its session's lock is free) have not
   * been given up on yet; `died` has.
   */
  readonly state: 'alive' | 'silent' | 'gone' | 'died' | 'evicted' | 'stopped'
  /**
   * Whether its session holds the lock by which its death is noticed at once. If a living worker has none, a pooler is
   * between it and the server, and its death is noticed by its heartbeat only, or by its `session`.
   */
  readonly locked: boolean
  /** Whether it shows by a session of ZooKeeper that it lives, so that others with one know of its death after `sessionTimeoutMs`. */
  readonly session: boolean
  readonly endedAt: Date | null
  /**
   * How it ended: by itself, evicted, or found dead since its process was gone (`lock`), it was silent (`heartbeat`) or its session of
   * ZooKeeper had ended (`session`).
   */
  readonly endedBy: DeathSign | 'stop' | 'evict' | null
  /** Those whose lease runs. A worker that has ended keeps them until another one takes them. */
  readonly lanes: readonly number[]
  /** Since when it has held each of them, in the same order. */
  readonly lanesTaken: readonly Date[]
  /** Since when it has held the first of them. */
  readonly lanesSince: Date | null
  /** Messages in flight at its last heartbeat. */
  readonly inFlight: number
  /** Names and patterns that a claimer has handlers for, or a receiver receives. Null for a relay. */
  readonly topics: readonly string[] | null
  /** A claimer's handler that has run for longer than it should: of which topic, and since when. */
  readonly stuck: { readonly topic: string; readonly since: Date } | null
  /** Of a relay that cannot reach its broker: why, and since when. */
  readonly brokerDown: { readonly error: string; readonly since: Date } | null
}

export interface ReadWorkersOptions {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Only those of this consumer. */
  readonly consumer?: string | undefined
  /** Only those of this kind. */
  readonly kind?: WorkerKind | undefined
}

export interface EvictOptions extends Signature {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
}

/** What became of each id that `evictWorkers` was given. */
export interface Eviction {
  readonly evicted: readonly number[]
  /** There is no such worker, or it ended so long ago that it has been forgotten. */
  readonly unknown: readonly number[]
  /** It had ended before. */
  readonly ended: readonly number[]
}

/** Most workers that are read, the living before the dead. */
export const workerLimit = 1000
/** As long as a worker is believed to live without a sign of life, by default. */
const silentMs = numberOptions.deadAfterMs.default

/**
 * Reads who works, what each worker holds, and who has ended in the last ten minutes and how.
 *
 * One statement, so one picture; it locks nothing. At most 1000 workers: the living, then the latest dead. Workers do
 * not tell their options, so `silent` is judged by the default of `deadAfterMs`.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function readWorkers(
  input: DatabaseInput,
  options: ReadWorkersOptions = {},
): Promise<WorkerStatus[]> {
  refuseUnknown('readWorkers', options, ['schema', 'consumer', 'kind'])
  const { schema, consumer, kind } = options
  const filters = {
    consumer: consumer === undefined ? null : checkConsumer(consumer),
    kind: kind === undefined ? null : oneOf('kind', kind, workerKinds),
  }
  return withTables(input, schema, async (database) => {
    const { workers } = operateSql(database.schema)
    return (await database.query(workers, { limit: workerLimit, ...filters })).map(toWorker)
  })
}

/**
 * Takes the work of these workers away from them, whether they live or not.
 *
 * Each is marked as ended, and leaves a row in the audit, all in one statement. The others see it within half a second, and take its lanes and its messages
 * as they take those of a dead worker: nothing is lost, and what it writes after they have taken over changes nothing.
 * If its process lives, it notices at its next heartbeat, aborts what it has in flight, and comes back under a new id:
 * to end a worker, stop its process. Handlers' effects outside of their transactions may be repeated, as after any
 * death. Without another worker of its kind and consumer, its work waits until it is back itself. A receiver holds
 * nothing that could be taken, since its broker decides who receives: it only gets a new id.
 *
 * Connections of a worker that was silent are closed, as far as they are this role's: a transaction that a frozen
 * process left open would hold up its successors.
 *
 * @throws OptionError for an id that cannot be one, before anything is changed; SchemaError, or the database's error
 */
export async function evictWorkers(
  input: DatabaseInput,
  ids: readonly number[],
  options: EvictOptions = {},
): Promise<Eviction> {
  refuseUnknown('evictWorkers', options, ['schema', 'by', 'reason'])
  if (!Array.isArray(ids) || !ids.every(isWorkerId)) {
    throw new OptionError('ids', `ids must be an array of whole numbers from 1 to ${workerIdMax}.`)
  }
  const signed = sign(options)
  return withTables(input, options.schema, async (database) => {
    const rows = await database.query(operateSql(database.schema).evict, {
      ids: [...new Set(ids)],
      ...signed,
    })
    for (const { id, evicted, silent_ms: silent } of rows) {
      if (evicted && silent > silentMs) {
        await database.query(operateSql(database.schema).disconnect, { worker: id })
      }
    }
    const those = (matches: (row: EvictRow) => boolean): number[] => rows.filter(matches).map(({ id }) => id)
    return {
      evicted: those(({ evicted }) => evicted),
      unknown: those(({ known }) => !known),
      ended: those(({ known, evicted }) => known && !evicted),
    }
  })
}

/** What became of each id, in a sentence for each, and what follows if any was evicted. */
export function tellEviction(
  { evicted, unknown, ended }: Eviction,
  schema: string,
): { readonly done: readonly string[]; readonly follows: string | null; readonly not: readonly string[] } {
  return {
    done: evicted.map((id) => `Evicted worker ${id}.`),
    follows: evicted.length === 0 ? null : afterEviction,
    not: [
      ...unknown.map((id) => `There is no worker ${id} in the schema "${schema}".`),
      ...ended.map((id) => `Worker ${id} had already ended, so there is nothing to take from it.`),
    ],
  }
}

export const afterEviction =
  'Others of its kind take its work over now. If its process lives, it comes back under a new id.'

const workerIdMax = 2 ** 31 - 1

/** Whether it can be the id of a worker: the column is an integer. */
const isWorkerId = (id: number): boolean => Number.isInteger(id) && id >= 1 && id <= workerIdMax

export function toWorker(row: WorkerRow): WorkerStatus {
  const state = stateOf(row)
  return {
    id: row.id,
    kind: row.kind,
    consumer: row.consumer === '' ? null : row.consumer,
    host: row.host,
    pid: row.pid,
    version: row.version,
    startedAt: row.started_at,
    lastBeatMs: row.silent_ms,
    beatAt: row.beat_at,
    alive: state === 'alive',
    state,
    locked: row.locked,
    session: row.signed,
    endedAt: row.ended_at,
    endedBy: row.ended_by,
    lanes: row.lanes,
    lanesTaken: row.taken,
    lanesSince: row.since,
    inFlight: row.in_flight,
    topics: row.topics,
    stuck: row.stuck_since === null ? null : { topic: row.stuck_topic ?? '', since: row.stuck_since },
    brokerDown:
      row.broker_down_since === null ? null : { error: row.broker_error ?? '', since: row.broker_down_since },
  }
}

const endStates = {
  stop: 'stopped',
  evict: 'evicted',
  lock: 'died',
  heartbeat: 'died',
  session: 'died',
} as const

function stateOf(row: WorkerRow): WorkerStatus['state'] {
  if (row.ended_by !== null) return endStates[row.ended_by]
  if (row.unlocked) return 'gone'
  return row.silent_ms > silentMs ? 'silent' : 'alive'
}
