import type { Asker } from '../database/limited.ts'
import { locksSql } from '../database/sql/locks.ts'
import { ms } from '../base/times.ts'
import { orFine, wrong, type Finding } from './finding.ts'

const check = 'locks'

/** Who holds advisory locks of ours and is none of us. */
export async function examineLocks(database: Asker): Promise<readonly Finding[]> {
  const rows = await database.query(locksSql(database.schema).foreign)
  const findings = rows.map(({ pid, user, application, lock, count, connected_ms: connectedMs }) => {
    const who = [
      `user ${user ?? 'unknown'}`,
      ...(application === null ? [] : [`application ${JSON.stringify(application)}`]),
      ...(connectedMs === null ? [] : [`connected for ${ms(connectedMs)}`]),
    ]
    return wrong(
      check,
      `The session ${pid} (${who.join(', ')}) is no worker, and holds ${count === 1 ? 'a lock' : `${count} locks`} of Twinbox: ${means(lock)}.`,
      `Ask whose it is; as an administrator, end it with: select pg_terminate_backend(${pid}). Every user who may connect can take such locks: revoke connect from who should not.`,
    )
  })
  return orFine(findings, check, 'Nobody else holds locks of Twinbox.')
}

function means(lock: string): string {
  switch (lock) {
    case 'migrate':
      return 'migrate waits for it'
    case 'worker':
      return 'workers that cannot take theirs are found dead by their heartbeat only, after deadAfterMs'
    case 'migration':
      return 'whoever publishes notifies each time as if somebody slept, and no worker can sleep'
    case 'outbox':
    case 'lane':
      return 'publishers with orderingLock wait for it'
    default:
      return `what is done to "${lock}" by one at a time is not done meanwhile`
  }
}
