import { readFileSync } from 'node:fs'
import { sentence, UsageError } from '../../src/terminal/failure.ts'
import { Random } from './random.ts'

/** The faults of a run, by kind: what happens, and to whom. */
export const kinds = {
  kill: 'SIGKILL',
  massacre: 'SIGKILL to half of all processes at once',
  freeze: 'SIGSTOP, SIGCONT later',
  restart: 'SIGTERM, and a new process in its place',
  rolling: 'SIGTERM to all workers in turn, while migrations run',
  stall: 'the event loop stands still',
  clock: 'the wall clock jumps',
  reset: 'connections to the database are reset',
  blackHole: 'the network to the database swallows everything',
  oneWay: 'the network to the database swallows one direction',
  latency: 'the network to the database is slow',
  cutAtCommit: 'the connection breaks at COMMIT',
  terminate: 'pg_terminate_backend',
  longTransaction: 'a transaction that stays open',
  serverRestart: 'the Postgres server restarts, in good order, at once or by SIGKILL',
  brokerReset: 'connections to the broker are reset',
  brokerDown: 'the broker refuses connections',
  brokerBlackHole: 'the network to the broker swallows everything',
  zookeeperDown: 'ZooKeeper refuses connections',
  zookeeperBlackHole: 'the network to ZooKeeper swallows everything',
  brokerRestart: 'the command of --restart-broker',
  refusals: 'the broker refuses single messages, some of them for good',
  repeats: 'the broker delivers late and twice, and forgets what it has answered',
  setBack: 'the sequences of outbox and inbox go back, as a restore leaves them',
  truncate: 'the rows of all workers and lanes are gone',
  away: 'the service that handlers call is away',
  restore: 'a younger server with a dump of some time ago takes the place of the Postgres server',
} as const
export type Kind = keyof typeof kinds

/** One fault, as it was decided before the run. */
export interface Fault {
  readonly kind: Kind
  /** From the start of the load, in milliseconds. */
  readonly at: number
  readonly forMs: number
  /** Decides whom it hits, and what else is open. From 0 to below 1. */
  readonly pick: number
  /** The post that it hits, if that was decided by somebody. */
  readonly post?: string
}

/** A run as it was decided before it began. The same plan again is the same faults at the same times. */
export interface Plan {
  readonly seed: number
  readonly seconds: number
  readonly faults: readonly Fault[]
}

/** How often each kind comes, in proportion. A third of all are deaths. */
const weights: Record<Kind, number> = {
  kill: 32,
  massacre: 2,
  freeze: 10,
  restart: 7,
  rolling: 1,
  stall: 6,
  clock: 4,
  reset: 6,
  blackHole: 4,
  oneWay: 4,
  latency: 4,
  cutAtCommit: 5,
  terminate: 5,
  longTransaction: 3,
  serverRestart: 3,
  brokerReset: 5,
  brokerDown: 3,
  brokerBlackHole: 3,
  zookeeperDown: 5,
  zookeeperBlackHole: 5,
  brokerRestart: 2,
  refusals: 5,
  repeats: 4,
  setBack: 3,
  truncate: 2,
  away: 4,
  restore: 3,
}

/** For how long, in milliseconds: shorter and longer than what a worker's silence is borne for. */
const lengths: Record<Kind, readonly [number, number]> = {
  kill: [200, 1500],
  massacre: [500, 2000],
  freeze: [500, 9000],
  restart: [0, 0],
  rolling: [0, 0],
  stall: [300, 8000],
  clock: [2000, 15_000],
  reset: [0, 0],
  blackHole: [1000, 9000],
  oneWay: [1000, 9000],
  latency: [2000, 8000],
  cutAtCommit: [3000, 3000],
  terminate: [0, 0],
  longTransaction: [3000, 20_000],
  serverRestart: [0, 0],
  brokerReset: [0, 0],
  brokerDown: [1000, 8000],
  brokerBlackHole: [1000, 12_000],
  zookeeperDown: [1000, 12_000],
  zookeeperBlackHole: [1000, 12_000],
  brokerRestart: [0, 0],
  refusals: [2000, 12_000],
  repeats: [2000, 12_000],
  setBack: [0, 0],
  truncate: [0, 0],
  away: [1000, 12_000],
  restore: [500, 5000],
}

const quietShare = 0.25
const windowMs = 30_000

/**
 * Decides all faults of a run from its seed: exponential gaps, in windows of half a minute of which a quarter is quiet,
 * and none in the first second and the last, so that there is something to disturb. Kinds that are `missing` do not occur.
 */
export function makePlan(
  seed: number,
  seconds: number,
  count: number,
  missing: ReadonlyMap<Kind, unknown> = new Map(),
): Plan {
  const random = new Random(seed)
  const possible = Object.fromEntries(
    Object.entries(weights).map(([kind, weight]) => [kind, missing.has(kind as Kind) ? 0 : weight]),
  ) as Record<Kind, number>
  const windows = Math.max(1, Math.ceil((seconds * 1000) / windowMs))
  const loud = Array.from({ length: windows }, () => !random.chance(quietShare) || windows < 4)
  const span = Math.max(1, seconds * 1000 - 2000)
  const length = span / windows
  const loudMs = Math.max(1, loud.filter(Boolean).length) * length
  const gaps = Array.from({ length: count + 1 }, () => random.exponential(1))
  const total = gaps.reduce((sum, gap) => sum + gap, 0)
  let passed = 0
  const faults = gaps.slice(0, count).map((gap): Fault => {
    passed += gap
    const kind = random.weighted(possible)
    const [min, max] = lengths[kind]
    // As the loud windows would lie if there were no others between them.
    let at = (passed / total) * loudMs
    for (const [index, is] of loud.entries()) if (!is && at >= index * length) at += length
    return {
      kind,
      at: Math.round(1000 + Math.min(at, span)),
      forMs: random.whole(min, max),
      pick: random.next(),
    }
  })
  return { seed, seconds, faults: faults.toSorted((a, b) => a.at - b.at) }
}

/** A plan from a file that an earlier run has left. @throws UsageError */
export function readPlan(path: string): Plan {
  let plan: Partial<Plan>
  try {
    plan = JSON.parse(readFileSync(path, 'utf8')) as Partial<Plan>
  } catch (error) {
    throw new UsageError(`The schedule ${path} cannot be read: ${sentence(error)}`)
  }
  const isNumber = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value)
  const wrong =
    !isNumber(plan.seed) ||
    !isNumber(plan.seconds) ||
    !Array.isArray(plan.faults) ||
    (plan.faults as Partial<Fault>[]).findIndex(
      (fault) =>
        !((fault.kind ?? '') in kinds) ||
        ![fault.at, fault.forMs, fault.pick].every((value) => isNumber(value)),
    ) >= 0
  if (wrong) {
    throw new UsageError(
      `The schedule ${path} is none: it needs seed, seconds, and faults with kind, at, forMs and pick.`,
    )
  }
  return plan as Plan
}
