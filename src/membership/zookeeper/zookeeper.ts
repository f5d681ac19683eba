import type { Coordination, Entrant, SignOfLife, Told } from '../coordination.ts'
import { loadLibrary } from './client.ts'
import { checkOptions, type ZookeeperOptions } from './options.ts'
import { ZookeeperSession } from './session.ts'

export type { ZookeeperOptions } from './options.ts'
export type { Coordination } from '../coordination.ts'

/**
 * Lets workers show by a session of ZooKeeper that they live, beside their heartbeats: where a pooler keeps Postgres from
 * freeing a dead worker's lock, others know of its death after `sessionTimeoutMs` instead of `deadAfterMs`.
 *
 * It says who lives and never who may write: fences in Postgres do, so a session that ends too early costs a
 * repetition and no more. Without a quorum of servers the heartbeats count alone, and an event `coordination_down` says so.
 * A worker that has no such session is judged by its heartbeat and its lock.
 *
 * Each worker has a session of its own; one object may be given to many workers. Needs the package `node-zookeeper-client`.
 *
 * @throws OptionError
 */
export function zookeeper(options: ZookeeperOptions): Coordination {
  const settings = checkOptions(options)
  // In a closure, where nobody prints the password.
  return {
    prepare: () => loadLibrary(),
    enter: (entrant: Entrant, told: Told): SignOfLife => new ZookeeperSession(settings, entrant, told),
  }
}
