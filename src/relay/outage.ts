import type { Database } from '../database/database.ts'
import { workerSql } from '../database/sql/worker.ts'
import { describeError, type BrokerError } from '../base/errors.ts'
import type { Emit } from '../base/events.ts'
import type { Membership } from '../membership/membership.ts'

interface Parts {
  readonly database: Database
  readonly membership: Membership
  readonly emit: Emit
}

/** What a relay says of its broker. */
export interface Outage {
  /** The broker is out of reach; with null it is back. */
  readonly report: (error: BrokerError | null, retryInMs: number) => void
  /** Writes it down beside the relay: nobody else would see why the outbox stands still. */
  readonly keepHouse: () => Promise<void>
}

/** A broker that is out of reach: told as an event, and written down for others to see. */
export function watchBroker({ database, membership, emit }: Parts): Outage {
  let down: { readonly since: number; readonly error: string } | null = null
  // What the table says, and of which row: a relay that was given up on comes back in another one.
  let written: { readonly id: number | null; readonly down: object | null } = { id: null, down: null }
  return {
    report(error, retryInMs) {
      if (error !== null && down === null) {
        down = { since: performance.now(), error: describeError(error) }
        emit({ type: 'broker_down', error, retryInMs })
      } else if (error === null && down !== null) {
        emit({ type: 'broker_up', downMs: performance.now() - down.since })
        down = null
      }
    },

    async keepHouse() {
      const { id } = membership
      const now = down
      if (id === null || now === (written.id === id ? written.down : null)) return
      const sinceMs = now === null ? null : performance.now() - now.since
      await database.keep(workerSql(database.schema).brokerDown, { id, error: now?.error ?? null, sinceMs })
      written = { id, down: now }
    },
  }
}
