import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { isAbsolute } from 'node:path'
import type { Found } from '../require.ts'

/**
 * A server that tests use for real. One file of this folder says all about it: how it is found, installed, started and
 * stopped. A file here that exports a list `servers` adds it to the test run and to `.ci/run`.
 */
export interface Server<Address extends object = object> {
  /** As `TWINBOX_TEST_REQUIRE` names it. */
  readonly name: string
  /** The variable of the environment that gives the address of one that runs already. */
  readonly variable?: string
  /**
   * What `.ci/run` installs as root where it is missing: Debian packages by the program that they bring or, for a library
   * without one, by the absolute path of its folder.
   */
  readonly packages?: Readonly<Record<string, readonly string[]>>
  /** What `--url` says for it, of the server of a broker. */
  brokerUrl?(address: Address): string
  /** Finds one that runs, or starts one, or says why there is none. A run asks once: its test files share the server. */
  readonly start: () => Promise<Found<Running<Address>>>
}

/** A server that runs. `stop` ends only what `start` has started. */
export interface Running<Address extends object> {
  /** What a test connects to. It travels to the test files as JSON. */
  readonly address: Address
  /** Where it was found, to be told. */
  readonly from: string
  stop(): Promise<void>
}

/** Every server that a file of this folder adds. */
export async function allServers(): Promise<readonly Server[]> {
  const files = readdirSync(import.meta.dirname).filter(
    (file) => /\.[tj]s$/.test(file) && !/\.d\.ts$/.test(file),
  )
  const modules = await Promise.all(
    files.map(
      async (file) =>
        (await import(/* @vite-ignore */ new URL(file, import.meta.url).href)) as {
          servers?: readonly Server[]
        },
    ),
  )
  return modules.flatMap(({ servers = [] }) => servers)
}

/** Installs what the servers need and the machine lacks. Packages of the system are left missing for who is not root. */
export function install(servers: readonly Server[]): void {
  const missing = servers
    .flatMap(({ packages = {} }) => Object.entries(packages))
    .filter(([brought]) => !(isAbsolute(brought) ? existsSync(brought) : isInstalled(brought)))
    .flatMap(([, packages]) => packages)
  if (missing.length === 0) return
  if (process.getuid?.() !== 0) {
    process.stderr.write(`Not root, so these packages stay missing: ${missing.join(' ')}\n`)
    return
  }
  const apt = (...args: string[]): unknown =>
    execFileSync('apt-get', [...args, '-qq'], {
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
      stdio: ['ignore', 'ignore', 'inherit'],
    })
  apt('update')
  apt('install', '-y', '--no-install-recommends', ...new Set(missing))
}

function isInstalled(program: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${program} || command -v /usr/sbin/${program}`], {
      stdio: 'ignore',
    })
    return true
  } catch {
    return false
  }
}

/** Stops nothing: somebody else has started it. */
export const leave = async (): Promise<void> => {}
