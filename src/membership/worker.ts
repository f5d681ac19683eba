import { openDatabase, type Database, type DatabaseInput } from '../database/database.ts'
import { checkSchemaVersion } from '../database/migrate.ts'
import { checkServer } from '../database/server.ts'
import { emitter, type Emit, type OnEvent, type WorkerKind } from '../base/events.ts'
import { checkRedaction, type RedactError } from '../base/redaction.ts'
import { StateMachine, type Moves } from '../base/state.ts'
import type { Telemetry } from '../base/telemetry.ts'
import { OptionError } from '../base/errors.ts'
import { isOutage } from '../database/evidence.ts'
import { checkCoordination, type Coordination } from './coordination.ts'

/** A running relay, receiver or claimer. */
export interface Worker {
  readonly kind: WorkerKind
  /** Null for a relay. */
  readonly consumer: string | null
  /** The id in the table `worker`, or null while it is not registered. A worker that was given up on gets a new one. */
  readonly id: number | null
  /**
   * Starts working. Resolves once it is registered. A broker that is away is waited for.
   *
   * Rejects for what no waiting would mend, and for a database that is away; nothing is left running, and it may be called
   * again.
   *
   * @throws SchemaError, OptionError (also if the client library of the coordination is missing) or the database's error; BrokerError of the
   *   kind `config` if the broker's client library is missing, or if the broker refuses the credentials, the virtual host or the certificate
   */
  start(): Promise<void>
  /**
   * Stops: takes nothing new, lets what is under way end for `stopTimeoutMs`, then gives back all leases, so that
   * others go on at once. Idempotent.
   */
  stop(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Options that all workers share. */
export interface WorkerOptions {
  /**
   * A connection string, `pg` options, or your own pool. The workers of a process that are given
   * the same text or the same object share up to ten connections, beside those that their handlers use.
   */
  readonly database: DatabaseInput
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /**
   * Whether statements are prepared by name, which PgBouncer in transaction mode allows since version 1.21.
   * @default true, except behind a pooler that shares sessions
   */
  readonly preparedStatements?: boolean | undefined
  /**
   * How long a lease runs without being renewed: the longest that a death can go unnoticed. It is renewed at least
   * every third of it, so a value near the event loop's worst stall costs wrongful takeovers, which are harmless but
   * repeat work. In milliseconds. @default 15_000
   */
  readonly leaseMs?: number | undefined
  /** How often the worker shows that it lives. In milliseconds. @default 1000 */
  readonly heartbeatMs?: number | undefined
  /**
   * How long a silent worker is believed to live; at least twice `heartbeatMs`. After four fifths of it without a
   * successful heartbeat, a worker lets go of what it holds by itself. In milliseconds. @default 5000
   */
  readonly deadAfterMs?: number | undefined
  /**
   * Another way to show that the worker lives, and to see who else does: `zookeeper(…)` of `twinbox/zookeeper`, for workers behind a
   * pooler that shares sessions. Those that have it and those that have not may work side by side. @default none
   */
  readonly coordination?: Coordination | undefined
  /** How long a stop waits for what is under way. In milliseconds. @default 25_000 */
  readonly stopTimeoutMs?: number | undefined
  /** The shortest pause between two looks at an empty table, of a worker that is awake. In milliseconds. @default 5 */
  readonly pollMs?: number | undefined
  /**
   * The longest pause between two looks at an empty table. After some looks in vain a worker sleeps: it looks
   * once a second and is woken by NOTIFY, except behind a pooler. In milliseconds. @default 100
   */
  readonly pollMsMax?: number | undefined
  /** Told of everything that happens; see `TwinboxEvent`. */
  readonly onEvent?: OnEvent | undefined
  /** Traces and metrics, as `twinbox/opentelemetry` makes them. @default none */
  readonly telemetry?: Telemetry | undefined
  /**
   * Says what is stored, logged, shown and traced of an error of a message instead of what it says itself, which may quote the
   * message; see `RedactError`. @default what it says, without the passwords of URLs
   */
  readonly redactError?: RedactError | undefined
}

/** The options of every worker that are numbers. */
export const workerNumbers = [
  'leaseMs',
  'heartbeatMs',
  'deadAfterMs',
  'stopTimeoutMs',
  'pollMs',
  'pollMsMax',
] as const

export const workerOptionNames = [
  'database',
  'schema',
  'preparedStatements',
  ...workerNumbers,
  'coordination',
  'onEvent',
  'telemetry',
  'redactError',
] as const

/**
 * - `idle`: not started yet, or its start has failed. It holds nothing, and may be started.
 * - `starting`: a start is under way.
 * - `running`: it was started.
 * - `stopping`: it is to stop. A start that is under way ends first: half a worker cannot be stopped.
 * - `stopped`: its database is closed. It is never started again.
 */
export type WorkerState = 'idle' | 'starting' | 'running' | 'stopping' | 'stopped'

export const workerMoves: Moves<WorkerState> = {
  idle: ['starting', 'stopping'],
  starting: ['running', 'idle', 'stopping'],
  running: ['stopping'],
  stopping: ['stopped'],
  stopped: [],
}

/** Makes a worker of two functions: started once, stopped once, its database opened, checked and closed. */
export function createWorker(
  options: WorkerOptions & { readonly poolSize?: number },
  parts: {
    readonly kind: WorkerKind
    readonly consumer: string | null
    readonly id: () => number | null
    /** Looks for what would keep it from ever working, before anything is started. */
    readonly probe?: () => Promise<void>
    readonly start: (database: Database) => Promise<void>
    readonly stop: () => Promise<void>
  },
): Worker {
  checkRedaction(options.redactError)
  const coordination = checkCoordination(options.coordination)
  if (options.database === undefined)
    throw new OptionError('database', 'database is required: a connection string or a pg pool.')
  let opened = openDatabase(options.database, options, true)
  const emit = emitter(options, () => ({ kind: parts.kind, consumer: parts.consumer, workerId: parts.id() }))
  const state = new StateMachine<WorkerState>('A worker', workerMoves, 'idle', (error) =>
    emit({ type: 'trouble', error, doing: 'starting or stopping' }),
  )
  /** What the last start or stop comes to: whoever calls again waits for the same. */
  let underWay = Promise.resolve()

  const close = async (): Promise<void> => {
    if (opened.owned) await opened.database.close()
  }
  const start = async (): Promise<void> => {
    const { database } = opened
    let begun = false
    try {
      await coordination?.prepare()
      await database.probe()
      await checkServer(database)
      await checkSchemaVersion(database, parts.consumer)
      await parts.probe?.()
      begun = true
      await parts.start(database)
      if (state.is('starting')) state.go('running')
    } catch (error) {
      if (begun) await parts.stop().catch(() => {})
      await close()
      // Somebody may mend it, and start again.
      opened = openDatabase(options.database, options, true)
      if (state.is('starting')) state.go('idle')
      throw error
    }
  }
  const stop = async (hasStarted: Promise<boolean>): Promise<void> => {
    if (await hasStarted) await parts.stop()
    await close()
    state.go('stopped')
  }
  return {
    kind: parts.kind,
    consumer: parts.consumer,
    get id() {
      return parts.id()
    },
    start() {
      if (state.is('stopping', 'stopped'))
        return Promise.reject(new Error('This worker was stopped. Create another one.'))
      if (state.is('idle') && state.go('starting')) underWay = start()
      return underWay
    },
    stop() {
      const hasStarted = state.is('idle')
        ? Promise.resolve(false)
        : underWay.then(
            () => true,
            () => false,
          )
      if (!state.is('stopping', 'stopped') && state.go('stopping')) underWay = stop(hasStarted)
      return underWay
    },
    async [Symbol.asyncDispose]() {
      await this.stop()
    },
  }
}

/** Reports what a loop meets: an outage of the database once when it begins and once when it ends, the rest each time. */
export function loopReports(
  emit: Emit,
  doing: string,
): {
  onError: (error: unknown, failures: number, retryInMs: number) => void
  onRecovered: () => void
} {
  let downSince: number | null = null
  return {
    onError(error, _failures, retryInMs) {
      if (!isOutage(error)) return emit({ type: 'trouble', error, doing })
      if (downSince !== null) return
      downSince = performance.now()
      emit({ type: 'database_down', error, retryInMs })
    },
    onRecovered() {
      if (downSince === null) return
      emit({ type: 'database_up', downMs: performance.now() - downSince })
      downSince = null
    },
  }
}

/** Waits for work that is under way, but not for ever. True if it ended in time. */
export async function settledWithin(work: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => (timer = setTimeout(() => resolve(false), ms)))
  const done = work.then(
    () => true,
    () => true,
  )
  return Promise.race([done, late]).finally(() => clearTimeout(timer))
}
