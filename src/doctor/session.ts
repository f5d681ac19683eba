import type { Database } from '../database/database.ts'
import { sessionFacts } from '../database/sql/server.ts'
import { rowTypes } from '../database/types.ts'
import { note, orFine, wrong, type Finding } from './finding.ts'
import type { Demand } from './server.ts'

interface SessionRow {
  readonly array_nulls: string
  readonly read_only: string
}

/** What a pooler in between takes away, and what is set for connections of the application's, which ours do not show. */
export async function examineSession(
  database: Database,
  demand: readonly Demand[],
): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  const query = { text: sessionFacts, types: rowTypes }
  const [set] = (await database.pool.query<SessionRow & Record<string, unknown>>(query)).rows
  const where = 'for the server, the database and the user'
  if (set!.array_nulls !== 'on') {
    findings.push(
      wrong(
        'session',
        'array_nulls is off: publishMany fails as soon as only some messages have a key.',
        `Switch it on ${where}.`,
      ),
    )
  }
  if (set!.read_only !== 'off') {
    findings.push(
      wrong(
        'session',
        'default_transaction_read_only is on: nothing can be published, and no worker starts.',
        `Switch it off ${where}.`,
      ),
    )
  }
  if (!database.sessions) {
    findings.push(
      note(
        'session',
        'A pooler that shares sessions is in between: there are no session locks and no NOTIFY. A death is found only by the missing heartbeat, after deadAfterMs, and workers without work look several times a second.',
        'Give workers a direct connection, or a pooler in session mode, or ZooKeeper as their `coordination`.',
      ),
    )
  } else if (database.pooled) {
    const wanted = demand.reduce((sum, { connections }) => sum + connections, 0)
    const who =
      wanted > 0
        ? `one process of this configuration may want ${wanted}`
        : 'a worker keeps up to nine of its own'
    findings.push(
      note(
        'session',
        `A pooler in session mode is in between: each connection takes one of its sessions; ${who}.`,
        'Make its pool larger than what all processes together want.',
      ),
    )
  }
  return orFine(findings, 'session', 'Nothing is in between, and no setting is in the way.')
}
