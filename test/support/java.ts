import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'

/** A server that runs on Java, which a test may kill and freeze. */

// When the test process dies, even by SIGKILL, its pipe closes and the server is killed.
const guardian = `
exec 3<&0
"$@" </dev/null 3<&- >>"$LOG" 2>&1 &
server=$!
echo "$server"
{ cat <&3 >/dev/null; kill -9 "$server"; } &
guard=$!
exec 3<&-
wait "$server"
kill "$guard"
`

/** What `java` is given: small, and quick to start. */
export const javaArguments = (classpath: string, memory: string, ...args: string[]): string[] => [
  ...[`-Xmx${memory}`, '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-Djava.awt.headless=true'],
  ...['-cp', classpath, ...args],
]

export class JavaServer {
  readonly #name: string
  #current: { readonly pid: number; readonly gone: Promise<void> } | null = null

  constructor(name: string) {
    this.#name = name
  }

  get runs(): boolean {
    return this.#current !== null
  }

  /** Resolves when the process is there; it may not answer yet. */
  async start(args: readonly string[], log: string): Promise<void> {
    const shell = spawn('sh', ['-c', guardian, 'sh', 'java', ...args], {
      env: { ...process.env, LOG: log },
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    const gone = new Promise<void>((done) => shell.once('exit', () => done()))
    const pid = await new Promise<number>((found, fail) => {
      shell.stdout.once('data', (data: Buffer) => found(Number(data.toString())))
      shell.once('error', fail)
    })
    const node = { pid, gone }
    this.#current = node
    shell.once('exit', () => {
      shell.stdin.destroy()
      if (this.#current === node) this.#current = null
    })
  }

  /** SIGKILL; resolves when the process is gone. */
  async kill(): Promise<void> {
    if (this.#current === null) return
    const { gone } = this.#current
    this.#signal('SIGKILL')
    await gone
  }

  /** SIGSTOP: connections stay open, nothing answers. Returns when every thread stands still. */
  freeze(): void {
    this.#signal('SIGSTOP')
    // The signal is on its way; a thread that still runs could answer what must not be answered.
    const { pid } = this.#current!
    const states = (): string[] =>
      readdirSync(`/proc/${pid}/task`).map(
        (thread) => readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8').split(') ')[1]![0]!,
      )
    while (states().some((state) => state !== 'T')) continue
  }

  /** SIGCONT. */
  thaw(): void {
    this.#signal('SIGCONT')
  }

  #signal(name: NodeJS.Signals): void {
    if (this.#current === null) throw new Error(`${this.#name} is not running.`)
    process.kill(this.#current.pid, name)
  }
}

/** Asked for together, so that no two are the same. */
export async function freePorts(count: number): Promise<number[]> {
  const held = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer()
      await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
      return server
    }),
  )
  const ports = held.map((server) => {
    const address = server.address()
    return typeof address === 'object' ? (address?.port ?? 0) : 0
  })
  await Promise.all(held.map((server) => new Promise((closed) => server.close(closed))))
  return ports
}
