import { describeError } from './errors.ts'
import { printableLabel } from './printable.ts'

/** What is kept of a failed attempt, as JSON: never more of a stack than where it happened. */
export function errorRecord(error: unknown, attempt: number, worker: number | null): string {
  return JSON.stringify({
    attempt,
    at: new Date().toISOString(),
    worker,
    error: describeError(error),
    class: classOf(error),
    stack: framesOf(error, 8).join('\n').slice(0, 1000).toWellFormed() || null,
  })
}

/** Handlers throw frozen objects and errors whose getters throw. */
function classOf(error: unknown): string | null {
  try {
    return error instanceof Error && typeof error.name === 'string' && error.name !== ''
      ? printableLabel(error.name)
      : null
  } catch {
    return null
  }
}

/** No more of a stack is looked at. */
const stackMax = 16_384

/** Where an error was thrown, a line each. What it says stands before that in its stack, and is no part of it. */
export function framesOf(error: unknown, most: number): string[] {
  try {
    if (!(error instanceof Error) || typeof error.stack !== 'string') return []
    const { message, stack } = error
    // Lines of a message may look like frames. One that was changed since is not found, and then the end counts.
    const said = stack.slice(0, 300).indexOf(message.slice(0, 100))
    const from = stack.startsWith(message, said)
      ? said + message.length
      : Math.max(0, stack.length - stackMax)
    const lines = stack.slice(from, from + stackMax).split('\n')
    return lines
      .filter((line) => /^\s+at /.test(line))
      .slice(0, most)
      .map(printableLabel)
  } catch {
    return []
  }
}
