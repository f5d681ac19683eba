import { spawn, type ChildProcess } from 'node:child_process'
import { resolve } from 'node:path'
import { expect } from 'vitest'
import { compiled } from './shared.ts'

await compiled('build')
const main = resolve('.build/src/cli/main.js')

export interface Output {
  readonly code: number | null
  readonly stdout: string
  /** Without the lines that say on which database it works, and whose configuration it runs. */
  readonly stderr: string
}

const placeLines = /^(Database ".*" on .*\.|Runs .*, the configuration of this folder .*)\n/gm

/** A process of the command as a user starts it: in some folder, with nothing of ours in the environment. */
export class Command {
  stdout = ''
  stderr = ''
  readonly process: ChildProcess
  readonly done: Promise<Output>

  constructor(folder: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    const inherited = Object.entries(process.env).filter(
      ([name]) => !/^(TWINBOX_|DATABASE_URL|NO_COLOR)/.test(name),
    )
    this.process = spawn(process.execPath, [main, ...args], {
      cwd: folder,
      env: { ...Object.fromEntries(inherited), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.process.stdout!.on('data', (data: Buffer) => (this.stdout += data.toString()))
    this.process.stderr!.on('data', (data: Buffer) => (this.stderr += data.toString()))
    this.done = new Promise((done) => {
      this.process.once('close', (code) =>
        done({ code, stdout: this.stdout, stderr: this.stderr.replace(placeLines, '') }),
      )
    })
  }

  /** Resolves when standard error or output shows it; fails when the command ends without. */
  async shows(pattern: RegExp): Promise<void> {
    let ended = false
    void this.done.then(() => (ended = true))
    while (!pattern.test(this.stderr + this.stdout)) {
      if (ended) expect.fail(`It ended without showing ${pattern}: ${this.stderr}${this.stdout}`)
      await new Promise((wake) => setTimeout(wake, 20))
    }
  }
}
