import type { Fault } from './faults.ts'
import { spread, table, type Spread } from './figures.ts'
import { rules } from '../proof/sql/ledger.ts'
import type { Account } from './ledger.ts'
import type { Outcome } from './scenario.ts'

/** What the trial of one fault came to, in milliseconds. */
export interface Result {
  readonly fault: Fault
  readonly claimer: readonly number[]
  readonly relay: readonly number[]
  /** Until the handler of the message that was in the long statement has begun again. */
  readonly resumed: readonly number[]
  /** How often one that was not hit was taken for dead. */
  readonly wrongful: number
  readonly account: Account | null
  readonly problems: readonly string[]
  /** Why it could not be tried. */
  readonly skipped?: string
}

interface Figures extends Spread {
  readonly redeliveries: number
  readonly wrongful: number
  readonly met: boolean
  /** See `goal.share` of the fault. */
  readonly share?: number
  readonly claimer: Spread
  readonly relay?: Spread
  readonly resumed?: Spread
  readonly account: Account
}

function figuresOf(result: Result & { account: Account }, results: readonly Result[]): Figures {
  const { fault, claimer, relay, resumed, wrongful, account } = result
  const all = spread([...claimer, ...relay])
  const redeliveries = account.claimedAgain + account.sentAgain
  const worst = all[fault.goal.of]
  const share = shareOf(result, all, results)
  return {
    ...all,
    redeliveries,
    wrongful,
    met:
      worst !== null &&
      (fault.goal.of === 'p99' ? worst < fault.goal.belowMs : worst <= fault.goal.belowMs) &&
      (fault.goal.noRepeats !== true || redeliveries === 0) &&
      (share === null || share <= fault.goal.share!.most),
    ...(share === null ? {} : { share }),
    claimer: spread(claimer),
    ...(fault.hits.length > 1 ? { relay: spread(relay) } : {}),
    ...(fault.midStatement === true ? { resumed: spread(resumed) } : {}),
    account,
  }
}

const goalOf = ({ goal }: Fault): string =>
  `${goal.of} ${goal.of === 'p99' ? '<' : '<='} ${goal.belowMs} ms${goal.noRepeats === true ? ', no redelivery' : ''}${
    goal.share === undefined ? '' : `, p50 <= ${goal.share.most} x ${goal.share.to}`
  }`

/** The median as a share of that of the fault with which it is compared; null if only one of them was tried. */
function shareOf({ fault }: Result, own: Spread, all: readonly Result[]): number | null {
  const other = all.find(({ fault: { name } }) => name === fault.goal.share?.to)
  const base = other === undefined ? null : spread([...other.claimer, ...other.relay]).p50
  return own.p50 === null || base === null ? null : Math.round((own.p50 / base) * 1000) / 1000
}

/** Holds the times against the goals, and tells it. */
export function conclude(results: readonly Result[], kills: number): Outcome {
  const problems = results.flatMap((result) => result.problems)
  const figures = results.map((result) => ({
    ...result,
    figures: result.account === null ? null : figuresOf({ ...result, account: result.account }, results),
  }))
  const tried = figures.flatMap(({ figures: tries }) => (tries === null ? [] : [tries]))
  const sum = (name: keyof Account): number => tried.reduce((all, { account }) => all + account[name], 0)
  const valid = problems.length === 0 && tried.length > 0
  const met = valid && tried.every((figure) => figure.met)
  const rows = figures.flatMap(({ fault, figures: found, skipped }) => {
    if (found === null) return [[fault.name, `skipped: ${skipped}`]]
    const parts = (['claimer', 'relay', 'resumed'] as const).flatMap((part) => {
      const { p50, p99, max, samples } = found[part] ?? { samples: 0 }
      return samples === 0 ? [] : [[`  ${part}`, p50, p99, max, samples]]
    })
    const { p50, p99, max, samples, redeliveries, wrongful } = found
    return [[fault.name, p50, p99, max, samples, redeliveries, wrongful, goalOf(fault), found.met], ...parts]
  })
  return {
    text: [
      'Milliseconds from the fault to the next claim of its work by a survivor',
      table(['fault', 'p50', 'p99', 'max', 'samples', 'redeliveries', 'wrongful', 'goal', 'met'], rows),
      `${sum('published')} messages published, ${sum('lost')} lost, ${sum('duplicateEffects')} effects twice, ` +
        `${sum('ghosts')} of nothing, ${sum('orderViolations')} out of order`,
      ...problems,
    ].join('\n'),
    result: {
      valid,
      met,
      goal: results.map(({ fault }) => `${fault.name}: ${goalOf(fault)}`).join('; '),
      kills,
      faults: Object.fromEntries(
        figures.map(({ fault, figures: found, skipped }) => [fault.name, found ?? { skipped }]),
      ),
      published: sum('published'),
      ...Object.fromEntries(rules.map((rule) => [rule, sum(rule)])),
      problems,
    },
  }
}
