import type { DeathSign } from '../../src/base/events.ts'
import { table } from '../../src/terminal/table.ts'
import type { Counts } from '../sql/soak.ts'
import type { Findings, Violation } from './checker.ts'
import type { Kind } from './plan.ts'

export interface Spread {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

/** What came out of a run, as `--json` prints it. */
export interface SoakResult {
  readonly ok: boolean
  readonly broker: string
  readonly seed: number
  readonly published: number
  readonly handled: number
  readonly deadLetters: number
  readonly lost: number
  readonly ghosts: number
  readonly altered: number
  readonly duplicateEffects: number
  readonly orderViolations: number
  readonly zombieWrites: number
  /** Everything else that is wrong with messages, leases and tables. */
  readonly otherViolations: number
  readonly faults: number
  readonly faultsByKind: Partial<Record<Kind, number>>
  readonly skippedFaults: Partial<Record<Kind, string>>
  /** Dead letters that held a key of the outbox back, until they were redriven. */
  readonly redriven: number
  readonly kills: number
  /** Workers that others have declared dead, by the sign by which they found it. */
  readonly deathsFoundBy: Partial<Record<DeathSign, number>>
  readonly unexpectedExits: number
  readonly counts: Counts
  /** By kind of fault, in milliseconds: until a survivor had the last of what the victim held, or else until work went on after the end of the fault. */
  readonly recoveryMs: Partial<Record<string, Spread>>
  /** The longest that a process took to end after `stop()`, in milliseconds. */
  readonly slowestEndMs: number
  /** Of the processes that lived for a minute: growth of their memory, in MiB per minute. */
  readonly memorySlope: { readonly processes: number; readonly median: number; readonly max: number } | null
  /** 99th percentile of the runner's own event loop delay: far above 50, the times here say little. */
  readonly runnerDelayMs: number
  readonly seconds: number
  readonly checkSeconds: number
  readonly versions: Readonly<Record<string, string>>
  /** What is wrong, in sentences. Empty if all is well. */
  readonly problems: readonly string[]
}

export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (share: number): number => Math.round(sorted[Math.ceil(sorted.length * share) - 1] ?? 0)
  return { count: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) }
}

export function recoveryOf(recovery: Findings['recovery']): Partial<Record<string, Spread>> {
  const kinds = [...new Set(recovery.map(({ kind }) => kind))].toSorted()
  return Object.fromEntries(
    kinds.flatMap((kind) => {
      const found = recovery.flatMap((one) => (one.kind === kind && one.ms !== null ? [one.ms] : []))
      return found.length === 0 ? [] : [[kind, spread(found)]]
    }),
  )
}

/** Least squares: what they grow by, in MiB per minute. */
export function slopeOf(points: readonly { readonly seconds: number; readonly bytes: number }[]): number {
  const mean = (of: (point: { seconds: number; bytes: number }) => number): number =>
    points.reduce((sum, point) => sum + of(point), 0) / points.length
  const [x, y] = [mean(({ seconds }) => seconds), mean(({ bytes }) => bytes)]
  const covariance = mean(({ seconds, bytes }) => (seconds - x) * (bytes - y))
  const variance = mean(({ seconds }) => (seconds - x) ** 2)
  return variance === 0 ? 0 : (covariance / variance / 2 ** 20) * 60
}

/** The result for people. */
export function renderResult(result: SoakResult): string {
  const { counts, memorySlope } = result
  const rows = Object.entries(result.recoveryMs).map(([kind, times]) => [
    kind,
    ...[times!.count, times!.p50, times!.p99, times!.max].map(String),
  ])
  const skipped = Object.entries(result.skippedFaults).map(([kind, why]) => `  No ${kind}: ${why}.`)
  return [
    '',
    `  published         ${result.published}   (${counts.failedPublishes} transactions failed, ${counts.openCommits} commits left open, ${counts.duplicates} duplicates recognised)`,
    `  handled           ${result.handled}   (${result.deadLetters} dead letters and ${counts.refused} of the outbox, ${result.redriven} redriven; ${counts.repeats} repeated attempts)`,
    `  lost              ${result.lost}`,
    `  ghosts            ${result.ghosts}`,
    `  duplicate effects ${result.duplicateEffects}`,
    `  order violations  ${result.orderViolations}`,
    `  zombie writes     ${result.zombieWrites}`,
    `  altered payloads  ${result.altered}`,
    `  other violations  ${result.otherViolations}`,
    `  faults            ${result.faults}   (${result.kills} times SIGKILL; takeovers: ${counts.laneTakeovers} lanes, ${counts.rowTakeovers} rows)`,
    `  deaths            found by ${found(result.deathsFoundBy)}`,
    `  false takeovers   ${counts.takenForDead} of ${counts.stalls} workers that stood still for 0.5 to 4 s${perThousand(counts)}`,
    `  repeated effects  ${counts.repeatedEffects} of handlers without a transaction, ${ratio(counts.repeatedEffects, result.faults)} per fault`,
    `  unexpected exits  ${result.unexpectedExits}   (the slowest process ended ${result.slowestEndMs} ms after its stop)`,
    ...(memorySlope === null
      ? []
      : [
          `  memory            ${memorySlope.median} MiB/min in the median of ${memorySlope.processes} processes, at most ${memorySlope.max}`,
        ]),
    '',
    'Milliseconds from the fault until others had all of its victim’s work, or from its end until work went on',
    table(['fault', 'times', 'p50', 'p99', 'max'], rows),
    ...skipped,
    ...(result.runnerDelayMs > 50
      ? [
          `  The machine was too busy for these times to say much: the runner's own event loop was ${result.runnerDelayMs} ms late (p99).`,
        ]
      : []),
    '',
    Object.entries(result.versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
    result.ok
      ? `All is well: every committed message took effect once, in order, over ${result.broker}, in ${result.seconds} s (seed ${result.seed}; checked in ${result.checkSeconds} s).`
      : `Something is wrong (seed ${result.seed}):\n${result.problems.map((problem) => `  - ${problem}`).join('\n')}`,
    '',
  ].join('\n')
}

const found = (signs: SoakResult['deathsFoundBy']): string =>
  Object.entries(signs)
    .map(([sign, count]) => `${sign}: ${count}`)
    .join(', ') || 'nobody'

const ratio = (count: number, of: number): string => (of === 0 ? 0 : count / of).toFixed(2)

const perThousand = ({ stalls, takenForDead }: Counts): string =>
  stalls === 0 ? '' : `, ${Math.round((takenForDead / stalls) * 1000)} per 1,000`

/** The first violations, each with all that is known of its message. */
export function renderViolations(violations: readonly Violation[]): string {
  return violations
    .map(({ rule, id, why, life }) =>
      [`${rule}: ${id ?? ''} ${why}`, ...life.map((line) => `    ${line}`)].join('\n'),
    )
    .join('\n')
}
