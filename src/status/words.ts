import type { DeathSign } from '../base/events.ts'
import { redactCut } from '../base/printable.ts'
import { clock, ms } from '../base/times.ts'
import type { ExplainedWorker } from './explanation.ts'

/** What sentences are put together from. */

/** An error is told up to there: it may quote megabytes. */
const errorMax = 160

/** `12:40 UTC (in 3 min)`. */
export function moment(time: Date | null, now: Date): string {
  if (time === null) return 'an unknown time'
  const distance = time.getTime() - now.getTime()
  const apart = distance > 0 ? `in ${ms(distance)}` : `${ms(-distance)} ago`
  return `${clock(time, now)} UTC (${apart})`
}

/** Whether it lives, and how that is known. */
export function lifeOf({ state, lastBeatMs, endedAt, endedBy }: ExplainedWorker, now: Date): string {
  const silent = lastBeatMs === null ? '' : ms(lastBeatMs)
  switch (state) {
    case 'alive':
      return `alive ${silent} ago`
    case 'silent':
      return `silent for ${silent}`
    case 'gone':
      return `whose process is gone (last heartbeat ${silent} ago)`
    case 'died':
      return `found dead at ${moment(endedAt, now)}, since ${signs[endedBy as DeathSign]}`
    case 'evicted':
      return `evicted at ${moment(endedAt, now)}`
    case 'stopped':
      return `stopped at ${moment(endedAt, now)}`
    case 'forgotten':
      return 'which ended more than ten minutes ago'
    default:
      return state satisfies never
  }
}

/** A worker, and where it runs or ran. */
export const named = ({ id, host, pid }: ExplainedWorker): string =>
  `worker ${id}${host === null ? '' : ` on host ${host} (process ${pid})`}`

/** How a death was found. */
export const signs: Readonly<Record<DeathSign, string>> = {
  lock: 'its process was gone',
  session: 'its session of ZooKeeper had ended',
  heartbeat: 'it gave no sign of life',
}

export const quoted = (name: string | null): string => `"${name}"`

export const attempts = (count: number | null): string => `${count} ${count === 1 ? 'attempt' : 'attempts'}`

/** The first line of an error, to stand within a sentence. */
export function brief(error: string | null): string {
  const [line = ''] = (error ?? '').trim().split('\n', 1)
  const told = redactCut(line, errorMax)
  return line.length > errorMax ? `${told.toWellFormed()}…` : told.replace(/\.$/, '')
}
