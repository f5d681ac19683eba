import { openDatabase, type DatabaseInput } from '../database/database.ts'
import { watchSql, type ProgressRow } from '../database/sql/watch.ts'
import type { OnEvent, TwinboxEvent } from '../base/events.ts'
import { ms } from '../base/times.ts'
import { sentence } from './logging.ts'
import { numberOptions, readNumbers, refuseUnknown } from '../base/options.ts'
import { readPaused, tellPaused, type PausedTopic } from '../status/paused.ts'
import type { Worker } from '../membership/worker.ts'

export interface HealthOptions {
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /**
   * Work that waits while none of it ends for so long is stuck. Longer than the slowest handler takes. In milliseconds.
   * @default 60_000
   */
  readonly stuckAfterMs?: number | undefined
}

/** Something that keeps work from moving. */
export interface HealthProblem {
  /** `relay`, `claimer billing`, or `database`. */
  readonly who: string
  /** What is wrong, since when, and what to do if it is known. */
  readonly why: string
  /** Whether another start of the process may help. An outage of the broker is not such a thing. */
  readonly restart: boolean
}

export interface HealthReport {
  /** False if another start of the process may help. */
  readonly live: boolean
  /** False if work does not move, for whatever reason. */
  readonly ready: boolean
  readonly problems: readonly HealthProblem[]
}

export interface Health {
  /** Give it to the workers as `onEvent`. */
  readonly onEvent: OnEvent
  /** Has this worker looked at from now on. */
  watch(worker: Worker): void
  /** Reads one statement's worth from the database, at most once a second, however often it is asked. */
  check(): Promise<HealthReport>
  /** Closes the connection to the database. */
  close(): Promise<void>
}

/** What is known of the workers of one kind and consumer in this process. Times are of the monotonic clock. */
interface Memory {
  running: boolean
  settledAt: number
  /** Since when something has been seen to wait, without a look at which nothing did. */
  waitingSince: number | null
  lostSince: number | null
  brokerDown: { readonly since: number; readonly why: string } | null
}

const freshMs = 1000
/** As `twinbox workers` judges it: workers do not tell their options. */
const silentMs = numberOptions.deadAfterMs.default

/**
 * Tells whether the work of this process moves, for an orchestrator to act on. A worker whose connections are all well
 * is not healthy while messages wait in its lanes and none is sent or handled; one whose broker is away is not at fault,
 * and starting it again would not help.
 *
 * Not `live`: a heartbeat that is late, a worker that was given up on and does not come back, a relay that does not send
 * what waits though broker and database are there, each for longer than `stuckAfterMs`. Not `ready`: these at once, an
 * outage, a claimer of which no handler ends, a worker that has not started.
 *
 * @throws OptionError
 */
export function createHealth(input: DatabaseInput, options: HealthOptions = {}): Health {
  refuseUnknown('createHealth', options, ['schema', 'stuckAfterMs'])
  const { stuckAfterMs } = readNumbers(options, ['stuckAfterMs'])
  const { database, owned } = openDatabase(input, { schema: options.schema, poolSize: 1 })
  const workers: Worker[] = []
  const memories = new Map<string, Memory>()
  const memoryOf = (of: Pick<TwinboxEvent, 'kind' | 'consumer'>): Memory => {
    const name = nameOf(of)
    let memory = memories.get(name)
    if (memory === undefined) {
      memory = { running: false, settledAt: -Infinity, waitingSince: null, lostSince: null, brokerDown: null }
      memories.set(name, memory)
    }
    return memory
  }

  const look = (
    worker: Worker,
    row: ProgressRow | undefined,
    pausing: readonly (PausedTopic & { readonly consumer: string })[],
    now: number,
  ): HealthProblem[] => {
    const memory = memoryOf(worker)
    const problem = (why: string, restart: boolean): HealthProblem[] => [
      { who: nameOf(worker), why, restart },
    ]
    if (!memory.running) return problem('It is not running.', false)
    if (row === undefined || row.ended_by !== null) {
      memory.lostSince ??= now
      const forMs = now - memory.lostSince
      return problem(
        `It was given up on by others and has not come back for ${ms(forMs)}.`,
        forMs > stuckAfterMs,
      )
    }
    memory.lostSince = null
    if (row.silent_ms > silentMs) {
      return problem(`Its last heartbeat is ${ms(row.silent_ms)} old.`, row.silent_ms > stuckAfterMs)
    }
    if (memory.brokerDown !== null) {
      const { since, why } = memory.brokerDown
      memory.waitingSince = null
      return problem(`The broker has been out of reach for ${ms(now - since)}: ${why}`, false)
    }
    const paused = pausing.filter(({ consumer }) => worker.kind === 'claimer' && consumer === worker.consumer)
    if (paused.length > 0) {
      memory.waitingSince = null
      return paused.flatMap((topic) =>
        problem(`It ${tellPaused(topic)} (UTC), and goes on by itself.`, false),
      )
    }
    const waitingMs = Math.max(row.keyed_ms ?? -1, row.free_ms ?? -1)
    memory.waitingSince = waitingMs < 0 ? null : (memory.waitingSince ?? now)
    if (memory.waitingSince === null) return []
    const stuckMs = now - Math.max(memory.waitingSince, memory.settledAt)
    if (stuckMs <= stuckAfterMs) return []
    const what = `Messages wait, the oldest for ${ms(waitingMs)}, and none has been`
    if (worker.kind === 'relay') return problem(`${what} sent for ${ms(stuckMs)}.`, true)
    // A restart would only cut a long handler short.
    return problem(
      `${what} handled for ${ms(stuckMs)}: handlers hang, or take longer than stuckAfterMs, ${stuckAfterMs} ms.`,
      false,
    )
  }

  const read = async (): Promise<HealthReport> => {
    const ids = workers.flatMap(({ id }) => (id === null ? [] : [id]))
    let problems: HealthProblem[]
    try {
      const rows = await database.query(watchSql(database.schema).progress, { workers: ids })
      const pausing = await readPaused(database)
      const now = performance.now()
      problems = workers.flatMap((worker) =>
        look(
          worker,
          rows.find(({ id }) => id === worker.id),
          pausing,
          now,
        ),
      )
    } catch (error) {
      problems = [{ who: 'database', why: sentence(error), restart: false }]
    }
    return { live: !problems.some(({ restart }) => restart), ready: problems.length === 0, problems }
  }

  let latest: { readonly at: number; readonly report: Promise<HealthReport> } | null = null
  const check = (): Promise<HealthReport> => {
    if (latest === null || performance.now() - latest.at > freshMs) {
      latest = { at: performance.now(), report: read() }
    }
    return latest.report
  }
  // Also while nobody asks: how long something has been stuck is known only from looks before.
  const looks = setInterval(() => void check(), stuckAfterMs / 6).unref()
  return {
    onEvent(event) {
      const memory = memoryOf(event)
      if (event.type === 'started') memory.running = true
      if (event.type === 'stopped') memory.running = false
      if (event.type === 'broker_down') {
        memory.brokerDown ??= { since: performance.now(), why: sentence(event.error) }
      } else if (event.type === 'broker_up') memory.brokerDown = null
      else if (settling.has(event.type)) memory.settledAt = performance.now()
    },
    watch: (worker) => void workers.push(worker),
    check,
    async close() {
      clearInterval(looks)
      await latest?.report
      if (owned) await database.close()
    },
  }
}

/** After any of these, less is waiting than before. */
const settling: ReadonlySet<TwinboxEvent['type']> = new Set([
  'sent',
  'received',
  'handled',
  'message_failed',
  'dead_letter',
  'parked',
  'set_aside',
  'dropped',
])

const nameOf = ({ kind, consumer }: Pick<TwinboxEvent, 'kind' | 'consumer'>): string =>
  consumer === null ? kind : `${kind} ${consumer}`
