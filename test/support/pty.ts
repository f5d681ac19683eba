import { execFileSync, spawn } from 'node:child_process'
import { resolve } from 'node:path'
import { compiled } from './shared.ts'
import { until } from './until.ts'

/** The command in a real terminal, which `script` of util-linux makes; that of other systems takes other options. */

await compiled('build')
const main = resolve('.build/src/cli/main.js')

export interface TerminalCommand {
  /** All that was written, output and errors as they came. */
  readonly stdout: string
  readonly done: Promise<{ readonly code: number | null; readonly stdout: string }>
  type(keys: string): void
  resize(columns: number, rows: number): Promise<void>
  until(condition: () => boolean): Promise<void>
}

function hasScript(): boolean {
  try {
    return execFileSync('script', ['--version'], { stdio: 'pipe' }).toString().includes('util-linux')
  } catch {
    return false
  }
}

function start(folder: string, args: readonly string[], given: NodeJS.ProcessEnv): TerminalCommand {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(TWINBOX_|DATABASE_URL|NO_COLOR)/.test(name),
  )
  const command = [process.execPath, main, ...args].map((word) => `'${word}'`).join(' ')
  // What it is called is told first, so that it can be resized from outside.
  const child = spawn('script', ['-qefc', `stty cols 80 rows 24; tty; exec ${command}`, '/dev/null'], {
    cwd: folder,
    env: { ...Object.fromEntries(inherited), ...given, TERM: 'xterm', SHELL: '/bin/sh' },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  let written = ''
  child.stdout.setEncoding('utf8').on('data', (data: string) => (written += data))
  const terminal = (): string | undefined => /^(\/dev\/\S+)\r?\n/.exec(written)?.[1]
  const told = (): string => written.slice(written.indexOf('\n') + 1)
  return {
    get stdout() {
      return told()
    },
    done: new Promise((done) => child.once('close', (code) => done({ code, stdout: told() }))),
    type: (keys) => void child.stdin.write(keys),
    async resize(columns, rows) {
      await until(() => terminal() !== undefined)
      execFileSync('stty', ['-F', terminal()!, 'cols', String(columns), 'rows', String(rows)])
    },
    until: (condition) => until(condition),
  }
}

/** Null where there is no such `script`. */
export const inTerminal = hasScript() ? start : null

/** What a command with `--watch` has drawn on its own screen, one picture after the other. The last may not be complete. */
export const frames = (written: string): string[][] =>
  written
    .split('\u001b[H\u001b[J')
    .slice(1)
    .map((frame) => frame.split('\u001b[?25h')[0]!.replaceAll('\r', '').split('\n'))
