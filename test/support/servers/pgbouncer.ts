import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from '../../../proof/stage/postgres.ts'
import { answers } from './postgres.ts'
import { leave, type Server } from './server.ts'
import { isMissing, type Found } from '../require.ts'

/** A real PgBouncer, as Debian's package `pgbouncer` brings it. */
export interface PgBouncer {
  readonly version: string
  /** Puts one in front of the server of this URL. */
  start(url: string, options?: PgBouncerOptions): Promise<Pooler>
}

export interface PgBouncerOptions {
  readonly ignoresOptions?: boolean
  /** @default 'transaction' */
  readonly mode?: 'transaction' | 'session'
  /** Sessions of the server. @default 15 */
  readonly size?: number
}

export interface Pooler {
  /** The same database, through the pooler. */
  readonly url: string
  stop(): Promise<void>
}

/** Found here only: each test puts one of its own in front of its database. */
const pgbouncer: Server<{ readonly version: string }> = {
  name: 'pgbouncer',
  packages: { pgbouncer: ['pgbouncer'] },
  start: async () => {
    const found = await findPgBouncer()
    if (isMissing(found)) return found
    return { address: { version: found.version }, from: found.version, stop: leave }
  },
}

export const servers = [pgbouncer]

const run = promisify(execFile)

export async function findPgBouncer(): Promise<Found<PgBouncer>> {
  for (const program of ['pgbouncer', '/usr/sbin/pgbouncer']) {
    try {
      const { stdout } = await run(program, ['--version'])
      const version = /[\d.]+/.exec(stdout)?.[0] ?? 'unknown'
      return { version, start: (url, options) => start(program, url, options) }
    } catch {
      // It is looked for at the next place.
    }
  }
  return { missing: 'no pgbouncer is installed' }
}

async function start(
  program: string,
  target: string,
  { ignoresOptions = false, mode = 'transaction', size = 15 }: PgBouncerOptions = {},
): Promise<Pooler> {
  const { hostname, port: serverPort, username, password, pathname } = new URL(target)
  const server = Object.entries({
    host: hostname,
    port: serverPort === '' ? '5432' : serverPort,
    user: decodeURIComponent(username),
    password: decodeURIComponent(password),
  })
    // It takes no empty value.
    .filter(([, value]) => value !== '')
    .map(([name, value]) => `${name}='${value.replaceAll("'", "''")}'`)
    .join(' ')
  const port = await freePort()
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-pgbouncer-'))
  const settings = join(folder, 'pgbouncer.ini')
  await chmod(folder, 0o755)
  await writeFile(
    settings,
    `[databases]
* = ${server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = ${mode}
default_pool_size = ${size}
query_wait_timeout = 10
max_client_conn = 200
${ignoresOptions ? 'ignore_startup_parameters = options' : ''}
`,
  )
  // Like Postgres, it refuses to run as root.
  const asRoot = process.getuid?.() === 0 ? ['-u', 'postgres'] : []
  const child = spawn(program, [...asRoot, settings], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (data: Buffer) => (said += data.toString()))
  const url = Object.assign(new URL(`postgres://postgres@127.0.0.1:${port}`), { pathname }).toString()
  while (!(await answers(url))) {
    if (child.exitCode !== null || /ERROR|FATAL/.test(said)) {
      child.kill('SIGKILL')
      throw new Error(`PgBouncer did not start: ${said}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  return {
    url,
    stop: async () => {
      const gone = once(child, 'exit')
      child.kill('SIGKILL')
      await gone
      await rm(folder, { recursive: true, force: true })
    },
  }
}
