import type { Coordination } from '../membership/coordination.ts'
import { zookeeper } from '../membership/zookeeper/zookeeper.ts'
import { readInsecure } from './brokers.ts'

/** What help says of `--zookeeper`. */
export const zookeeperHelp =
  'TWINBOX_ZOOKEEPER, or this: servers of ZooKeeper as host:port,…, by which workers know who lives. TWINBOX_ZOOKEEPER_AUTH: user:password'

/** The servers of ZooKeeper by flag or environment; null if neither says any. */
export const zookeeperOf = (flags: { readonly zookeeper?: string | undefined }): string | null =>
  flags.zookeeper ?? (process.env['TWINBOX_ZOOKEEPER'] || null)

/** By flag or environment; null if neither says one. @throws UsageError, OptionError */
export function openCoordination(flags: {
  readonly zookeeper?: string | undefined
  readonly insecure?: boolean | undefined
}): Coordination | null {
  const servers = zookeeperOf(flags)
  if (servers === null) return null
  const auth = process.env['TWINBOX_ZOOKEEPER_AUTH'] || undefined
  return zookeeper({ servers, auth, insecure: readInsecure(flags.insecure) })
}
