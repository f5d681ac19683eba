import { OptionError } from '../../base/errors.ts'
import { isLocal } from '../../base/local.ts'
import { readBoolean, refuseUnknown, whole } from '../../base/options.ts'

export interface ZookeeperOptions {
  /** The servers of the ensemble as `host:port`, in a list or with commas between; the port is 2181 unless it is said. */
  readonly servers: string | readonly string[]
  /**
   * So long after a worker's process has died, the ensemble ends its session, and the others know. Shorter finds deaths sooner;
   * a worker whose event loop stands for longer is taken for dead. The servers decide: by default they grant no less than two
   * ticks, which are 4 s. From 1,000 to 60,000. In milliseconds. @default 4000
   */
  readonly sessionTimeoutMs?: number | undefined
  /**
   * The node under which all is kept, a folder for each database, schema, kind and consumer. It is created when it is missing.
   * @default '/twinbox'
   */
  readonly chroot?: string | undefined
  /**
   * `user:password` by which the worker signs in (scheme `digest`). All workers that share work need the same: what one creates, only
   * who signs in so may see or change. @default nobody signs in, and whoever reaches the servers may change what is there
   */
  readonly auth?: string | undefined
  /**
   * Allows servers on other machines. The client speaks no TLS: whoever is on the way can read the password, and can have workers
   * taken for dead. @default false
   */
  readonly insecure?: boolean | undefined
}

/** Checked options with every default filled in. */
export interface Settings {
  readonly servers: readonly string[]
  readonly sessionTimeoutMs: number
  readonly chroot: string
  readonly auth: string | null
}

/** @throws OptionError naming the option and what it must be. No secret is ever part of the text. */
export function checkOptions(options: ZookeeperOptions): Settings {
  if (typeof options !== 'object' || options === null) {
    throw new OptionError('options', 'zookeeper() needs an object with at least servers.')
  }
  refuseUnknown('zookeeper', options, ['servers', 'sessionTimeoutMs', 'chroot', 'auth', 'insecure'])
  const servers = checkServers(options.servers)
  const insecure = readBoolean('insecure', options.insecure, false)
  const host = servers
    .map((server) => server.slice(0, server.lastIndexOf(':')))
    .find((each) => !isLocal(each))
  if (host !== undefined && !insecure) {
    throw new OptionError(
      'insecure',
      `servers names ${host}, which may be another machine, and the client speaks no TLS: whoever is on the way could read the password ` +
        'and have workers taken for dead. Reach it through a tunnel of yours on this machine, or allow it with insecure: true ' +
        '(on the command line --insecure or TWINBOX_INSECURE=1).',
    )
  }
  return {
    servers,
    sessionTimeoutMs: whole('sessionTimeoutMs', options.sessionTimeoutMs, 4000, 1000, 60_000),
    chroot: checkChroot(options.chroot),
    auth: checkAuth(options.auth),
  }
}

function checkServers(given: unknown): string[] {
  const list: unknown[] = typeof given === 'string' ? given.split(',') : Array.isArray(given) ? given : []
  const servers = list.map((server) =>
    typeof server === 'string' ? /^([^\s:/@,[\]]+)(?::(\d{1,5}))?$/.exec(server.trim()) : null,
  )
  if (servers.length > 0 && servers.every((server) => server !== null && Number(server[2] ?? 2181) < 65_536))
    return servers.map((server) => `${server![1]}:${Number(server![2] ?? 2181)}`)
  throw new OptionError(
    'servers',
    'servers must be at least one "host:port", in a list or with commas between, such as "zk1:2181,zk2:2181,zk3:2181".',
  )
}

function checkChroot(chroot: unknown = '/twinbox'): string {
  // Dots alone are no names there.
  if (typeof chroot === 'string' && /^(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._-]+)+$/.test(chroot)) return chroot
  throw new OptionError(
    'chroot',
    'chroot must be a path of names of A-Z a-z 0-9 . _ - that begins with a slash and ends without, such as /twinbox.',
  )
}

function checkAuth(auth: unknown): string | null {
  if (auth === undefined) return null
  if (typeof auth === 'string' && /^[^\s:]+:.+$/s.test(auth)) return auth
  throw new OptionError('auth', 'auth must be "user:password", both of at least one character.')
}
