import type { Database } from '../../src/database/database.ts'
import { demoSql } from '../sql/demo.ts'
import type { Disaster } from './disaster.ts'
import type { Published } from './publisher.ts'
import type { DemoRun } from './run.ts'

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
  readonly killed: number
  /** How many messages the killed claimer had in flight. */
  readonly heldByKilled: number
  readonly takeoverMs: number | null
  readonly relayTakeoverMs: number | null
  readonly seconds: number
  /** What is wrong, in sentences. Empty if all is well. */
  readonly problems: readonly string[]
}

/** Holds what the handlers wrote against what was committed with each message. */
export async function judge(
  run: DemoRun,
  database: Database,
  disaster: Disaster,
  said: Published,
  unruly: readonly string[],
  startedAt: number,
): Promise<Verdict> {
  const [found] = await database.query(demoSql(run.schema).verdict)
  const { published, handled, lost, ghosts, altered, duplicateEffects, orderViolations } = found!
  const { takeoverMs, relayTakeoverMs, killed } = disaster
  const problems = [
    ...unruly,
    ...wrong(
      published !== said.published,
      `${said.published} transactions said that they had committed, ${published} did`,
    ),
    ...wrong(lost > 0, `${lost} messages were lost`),
    ...wrong(ghosts > 0, `${ghosts} messages were handled whose transaction was rolled back`),
    ...wrong(duplicateEffects > 0, `${duplicateEffects} effects happened twice`),
    ...wrong(
      orderViolations > 0,
      `${orderViolations} messages were handled before an earlier one of their key`,
    ),
    ...wrong(altered > 0, `${altered} messages arrived changed`),
    ...wrong(killed !== 2, `${killed} processes were killed instead of 2`),
    ...wrong(takeoverMs === null, 'no survivor was seen continuing the messages of the killed claimer'),
    ...wrong(relayTakeoverMs === null, 'no survivor was seen taking over the lanes of the killed relay'),
  ]
  return {
    ok: problems.length === 0,
    broker: run.broker,
    published,
    rolledBack: said.rolledBack,
    duplicatePublishes: said.duplicates,
    handled,
    duplicateEffects,
    lost,
    ghosts,
    altered,
    orderViolations,
    killed,
    heldByKilled: disaster.heldMessages,
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
