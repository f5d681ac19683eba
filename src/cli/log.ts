import type { OnEvent } from '../base/events.ts'
import { printableLine } from '../base/printable.ts'
import { logEvents, type LogLevel } from '../observe/logging.ts'
import { remarkLines, say } from '../terminal/output.ts'

export { ms } from '../base/times.ts'

export interface LogOptions {
  /** One JSON object a line on standard output, rather than lines for people on standard error. */
  readonly json: boolean
  /** Also what happens to every single message, and stacks. */
  readonly verbose: boolean
}

export interface Log {
  readonly onEvent: OnEvent
  /** Something about the command itself. */
  say(text: string): void
}

/** What the command line writes of events, for people or for programs. */
export function createLog({ json, verbose }: LogOptions): Log {
  const write = (level: LogLevel, who: string | null, text: string, fields: object): void => {
    if (level === 'debug' && !verbose) return
    const at = new Date().toISOString()
    if (json) say(JSON.stringify({ at, level, ...fields }))
    else remarkLines(`${at.slice(11, 23)} ${level.padEnd(5)} ${who === null ? '' : `${who}: `}${text}`)
  }
  const to =
    (level: LogLevel) =>
    (facts: object, text: string): void => {
      const { kind, consumer, workerId } = facts as Parameters<OnEvent>[0]
      write(level, [kind, consumer, workerId].filter((part) => part !== null).join(' '), text, facts)
    }
  return {
    say: (text) => write('info', null, printableLine(text), { type: 'command', text }),
    onEvent: logEvents(
      { debug: to('debug'), info: to('info'), warn: to('warn'), error: to('error') },
      { stacks: verbose },
    ),
  }
}
