import { describeError, TwinboxError } from '../base/errors.ts'
import type { LeftRow } from '../database/sql/testing.ts'
import type { FailedHandling, Progress } from './progress.ts'

/** What is thrown for attempts that have failed: of one its own error, so that a test may expect it. */
export function thrownBy(failed: readonly FailedHandling[]): unknown {
  if (failed.length === 1) return failed[0]!.error
  const errors = failed.map(({ error }) => error)
  return new AggregateError(errors, `${failed.length} messages failed:\n${failed.map(described).join('\n')}`)
}

const described = ({ topic, id, consumer, attempt, error, retryInMs }: FailedHandling): string => {
  const next = retryInMs === null ? 'a dead letter now' : `tried again in ${Math.ceil(retryInMs)} ms`
  const where = consumer === null ? 'the broker refused it' : `consumer "${consumer}"`
  return `- ${topic} ${id} (${where}, attempt ${attempt}, ${next}): ${describeError(error)}`
}

/** What keeps messages where they are. */
const reasons: Readonly<Record<LeftRow['place'], string>> = {
  outbox: 'in the outbox: not sent, or the broker has not confirmed it',
  broker: 'at the broker: sent, and not received',
  inbox: 'in the inbox: not handled, or its handler has not ended',
  delayed: 'due, and not yet back in the outbox',
  retrying: 'due, and not yet back',
  parked: 'held back',
  unhandled: 'waits for a handler that is here',
  dead: 'a dead letter',
  schedule: 'a recurring message that is due',
}

/** What still waits when the time is up, and why. */
export function notSettled(timeoutMs: number, waiting: readonly LeftRow[], progress: Progress): TwinboxError {
  const places = waiting.map(({ place, consumer, topic, count, id }) => {
    const whose = consumer === '' ? '' : ` for "${consumer}"`
    return `- ${count} of "${topic}"${whose} (${reasons[place]})${id === null ? '' : `, such as ${id}`}`
  })
  const troubles = [...new Set(progress.troubles)].slice(-5).map((trouble) => `- ${trouble}`)
  const text = [
    `Messages still waited after timeoutMs, ${timeoutMs} ms; ${progress.sent} were sent and ${progress.handled} handled. What they published is waited for as well: a handler that answers each message with another one never ends.`,
    ...places,
    ...(troubles.length === 0 ? [] : ['What the workers met:', ...troubles]),
    ...(progress.failed.length === 0 ? [] : ['What failed:', ...progress.failed.slice(0, 20).map(described)]),
  ]
  return new TwinboxError('NOT_SETTLED', text.join('\n'), {
    ...(progress.failed.length === 0 ? {} : { cause: thrownBy(progress.failed) }),
  })
}
