import { otherViolations, type Outcome } from '../soak/conduct.ts'
import type { Kills } from './kills.ts'

/** What came out of a run, as `--json` prints it. */
export interface Verdict {
  readonly ok: boolean
  readonly broker: string
  readonly published: number
  readonly rolledBack: number
  /** Publishes that were recognised as having happened before. */
  readonly duplicatePublishes: number
  readonly handled: number
  readonly duplicateEffects: number
  readonly lost: number
  /** Effects of transactions that were rolled back. */
  readonly ghosts: number
  /** Messages whose payload, topic or key is not what was published. */
  readonly altered: number
  readonly orderViolations: number
  /** Everything else that is wrong with messages, leases and tables. */
  readonly otherViolations: number
  readonly killed: number
  /** How many messages the killed claimer had in flight. */
  readonly heldByKilled: number
  readonly takeoverMs: number | null
  readonly relayTakeoverMs: number | null
  readonly seconds: number
  /** What is wrong, in sentences. Empty if all is well. */
  readonly problems: readonly string[]
}

/** What there is to say of a run. */
export function judge(outcome: Outcome, kills: Kills, startedAt: number): Verdict {
  const { findings, company, run } = outcome
  const { broken, counts } = findings
  const { takeoverMs, relayTakeoverMs, heldMessages } = kills
  const dead = counts.dead + counts.refused
  const problems = [
    ...outcome.problems,
    ...wrong(dead > 0, `${dead} messages became dead letters`),
    ...wrong(company.kills !== 2, `${company.kills} processes were killed instead of 2`),
    ...wrong(takeoverMs === null, 'no survivor was seen continuing the messages of the killed claimer'),
    ...wrong(relayTakeoverMs === null, 'no survivor was seen taking over the lanes of the killed relay'),
  ]
  return {
    ok: problems.length === 0,
    broker: run.broker,
    published: counts.published,
    rolledBack: counts.failedPublishes - counts.openCommits,
    duplicatePublishes: counts.duplicates,
    handled: counts.handled,
    duplicateEffects: broken.duplicateEffects,
    lost: broken.lost,
    ghosts: broken.ghosts,
    altered: broken.altered,
    orderViolations: broken.orderViolations,
    otherViolations: otherViolations(findings),
    killed: company.kills,
    heldByKilled: heldMessages,
    takeoverMs,
    relayTakeoverMs,
    seconds: Math.round((performance.now() - startedAt) / 10) / 100,
    problems,
  }
}

const wrong = (is: boolean, problem: string): string[] => (is ? [problem] : [])

/** The verdict for people. */
export function renderVerdict(verdict: Verdict): string {
  const { published, rolledBack, duplicatePublishes, handled, takeoverMs, relayTakeoverMs } = verdict
  const after = (time: number | null): string => (time === null ? 'never' : `after ${time} ms`)
  return [
    '',
    `  published         ${published}   (${rolledBack} transactions rolled back, ${duplicatePublishes} duplicates recognised)`,
    `  handled           ${handled}`,
    `  lost              ${verdict.lost}`,
    `  ghosts            ${verdict.ghosts}`,
    `  duplicate effects ${verdict.duplicateEffects}`,
    `  order violations  ${verdict.orderViolations}`,
    `  altered payloads  ${verdict.altered}`,
    `  other violations  ${verdict.otherViolations}`,
    '',
    `  A claimer was killed with ${verdict.heldByKilled} messages in flight; another one continued them ${after(takeoverMs)}.`,
    `  A relay was killed; the other one took its lanes over ${after(relayTakeoverMs)}.`,
    '',
    verdict.ok
      ? `All is well: every committed message took effect once, in order, over ${verdict.broker}, in ${verdict.seconds} s.`
      : `Something is wrong:\n${verdict.problems.map((problem) => `  - ${problem}`).join('\n')}`,
    '',
  ].join('\n')
}
