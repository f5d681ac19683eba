import { Cron } from 'croner'
import { OptionError } from '../base/errors.ts'
import type { CatchUp } from '../database/sql/schedule.ts'

/** A tick that is later than this was missed. Up to then, somebody was only a little slow. */
const missedAfterMs = 60_000
/** So many ticks are published in one transaction. */
const ticksMax = 500

/**
 * The times of a cron expression in a time zone.
 *
 * node-cron, which wakes the upkeep up, only tells when it would run next from now on. croner tells it from any time on,
 * has no dependencies and refuses what is not a whole expression. In a time zone, a time that the clock skips in spring
 * is taken when the gap ends, and one that comes twice in autumn is taken the first time. An expression with a wildcard
 * or a step among seconds, minutes and hours names no times but a rhythm, which goes on through both changes.
 */
export class Ticks {
  readonly #cron: Cron

  /** @throws OptionError */
  constructor(expression: string, timeZone: string) {
    try {
      if (typeof expression !== 'string' || expression.length > 200)
        throw new Error('It is no text, or too long.')
      if (typeof timeZone !== 'string' || timeZone === '')
        throw new Error('timeZone must be a name as Europe/Berlin.')
      this.#cron = new Cron(expression, {
        timezone: timeZone,
        paused: true,
        mode: '5-or-6-parts',
        // Otherwise only a single value counts as a time: "30 2,14" would be lost in spring, and come twice in autumn.
        fixedTimeRule: 'no-wildcard',
      })
      this.#cron.nextRun(new Date(0))
    } catch (cause) {
      throw new OptionError(
        'cron',
        `cron and timeZone must be an expression of five or six fields and a time zone: ${(cause as Error).message}`,
        { cause },
      )
    }
  }

  /** The first tick after a time, or null if there is none any more. */
  next(after: Date): Date | null {
    return this.#cron.nextRun(after)
  }

  /** What to publish now, given the first tick that has not been, and the tick after that. */
  due(first: Date, now: Date, catchUp: CatchUp): { ticks: Date[]; next: Date | null } {
    const missedBefore = new Date(now.getTime() - missedAfterMs)
    let from: Date | null = first
    if (first < missedBefore && catchUp === 'skip') from = this.next(new Date(missedBefore.getTime() - 1))
    if (first < missedBefore && catchUp === 'one') {
      const [last] = this.#cron.previousRuns(1, new Date(now.getTime() + 1))
      from = last !== undefined && last > first && last <= now ? last : first
      const after = this.next(from)
      if (after !== null && after <= now) from = after
    }
    const ticks: Date[] = []
    while (from !== null && from <= now && ticks.length < ticksMax) {
      ticks.push(from)
      from = this.next(from)
    }
    return { ticks, next: from }
  }
}
