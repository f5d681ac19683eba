import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { promisify } from 'node:util'

/** A program of `examples/python` as a user starts it, and what it prints. */
export class Program {
  readonly lines: string[] = []
  readonly #process: ChildProcess
  readonly #ended: Promise<unknown>
  #look: () => void = () => {}
  #gone = false

  constructor(python: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.#process = spawn(python, args, { cwd: 'examples/python', env: { ...process.env, ...env } })
    for (const stream of [this.#process.stdout!, this.#process.stderr!])
      createInterface(stream).on('line', (line) => {
        this.lines.push(line)
        this.#look()
      })
    this.#process.once('close', () => {
      this.#gone = true
      this.#look()
    })
    this.#ended = once(this.#process, 'close')
    // Of one that has been killed, the pipe is broken.
    this.#process.stdin!.on('error', () => {})
  }

  /** Resolves when its lines, past and to come, are as they should be; fails when it ends before. */
  shows(what: (lines: readonly string[]) => boolean): Promise<void> {
    return new Promise((shown, fail) => {
      this.#look = () => {
        if (what(this.lines)) shown()
        else if (this.#gone) fail(new Error(`It ended before:\n${this.lines.join('\n')}`))
      }
      this.#look()
    })
  }

  write(lines: readonly string[]): void {
    this.#process.stdin!.write(lines.map((line) => `${line}\n`).join(''))
  }

  async kill(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.#ended
  }

  /** As by Ctrl-C, or by the end of its input. It has to end by itself, and well. */
  async stop(how: 'interrupt' | 'end of input'): Promise<void> {
    if (how === 'interrupt') this.#process.kill('SIGINT')
    else this.#process.stdin!.end()
    await this.#ended
    const { exitCode } = this.#process
    if (exitCode !== 0) throw new Error(`It ended with ${exitCode}:\n${this.lines.join('\n')}`)
  }
}

/** Asks an SQLite database, or changes it, through Python: Node 20 has no SQLite. */
export async function sqlite(python: string, file: string, statement: string): Promise<unknown[][]> {
  const code = [
    'import json, sqlite3, sys',
    'with sqlite3.connect(sys.argv[1]) as database:',
    '    print(json.dumps(database.execute(sys.argv[2]).fetchall()))',
  ]
  const { stdout } = await promisify(execFile)(python, ['-c', code.join('\n'), file, statement])
  return JSON.parse(stdout) as unknown[][]
}
