import { describeError, warn } from './errors.ts'
import type { OnEvent } from './events.ts'

/**
 * The one seam for traces and metrics. Workers and outboxes know no tracing library, only this; without it nothing of
 * it is run. `twinbox/opentelemetry` makes one.
 */
export interface Telemetry {
  /** Told of everything that happens, like the option `onEvent`. */
  readonly onEvent?: OnEvent | undefined
  /** Something begins that is done with these messages. */
  begin(operation: Operation, messages: readonly TracedMessage[]): Trace
}

/** What is done, and by whom. */
export interface Operation {
  readonly name: 'publish' | 'send' | 'receive' | 'handle'
  /** The broker's name; `twinbox` for what happens in outbox and inbox. */
  readonly system: string
  readonly workerId: number | null
}

/** What a tracer may know of a message: never its payload. */
export interface TracedMessage {
  /** Whose it is, once it has been received. */
  readonly consumer?: string
  readonly id: string
  readonly topic: string
  /** Of these it reads only those that carry a trace. */
  readonly headers: Readonly<Record<string, string>> | null
  readonly bytes: number
}

/** An operation under way. */
export interface Trace {
  /** For each message, the headers by which its trace goes on: `traceparent` and its like. */
  readonly carried: readonly Readonly<Record<string, string>>[]
  /** Runs `work` as a part of it, so that what the work traces itself belongs to it. */
  run<Result>(work: () => Result): Result
  /** It has ended; `failureOf` tells what went wrong with a message, undefined if nothing did. */
  end(failureOf?: (index: number) => unknown): void
}

/** Begins a trace if somebody wants it. Like any observer, one that throws must not hurt the work. */
export function begin(
  telemetry: Telemetry | undefined,
  operation: Operation,
  messages: () => readonly TracedMessage[],
): Trace | null {
  if (telemetry === undefined) return null
  try {
    const trace = telemetry.begin(operation, messages())
    return {
      carried: trace.carried,
      run(work) {
        let begun = false
        try {
          return trace.run(() => ((begun = true), work()))
        } catch (error) {
          // What the work itself has thrown is no fault of who watches.
          if (begun) throw error
          complain(operation, error)
          return work()
        }
      },
      end(failureOf) {
        try {
          trace.end(failureOf)
        } catch (error) {
          complain(operation, error)
        }
      },
    }
  } catch (error) {
    complain(operation, error)
    return null
  }
}

function complain({ name }: Operation, error: unknown): void {
  warn(`Telemetry threw at "${name}": ${describeError(error)}`)
}

/** Headers as they are stored, with those of a trace in them. */
export function carryOn(
  headers: string | null,
  carried: Readonly<Record<string, string>> | undefined,
): string | null {
  if (carried === undefined || Object.keys(carried).length === 0) return headers
  return JSON.stringify({ ...parseHeaders(headers), ...carried })
}

export const parseHeaders = (headers: string | null): Record<string, string> | null =>
  headers === null ? null : (JSON.parse(headers) as Record<string, string>)
