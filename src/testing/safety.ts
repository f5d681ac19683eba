import type { Database } from '../database/database.ts'
import { testingSql } from '../database/sql/testing.ts'
import { readWorkers } from '../operate/workers.ts'
import { TwinboxError } from '../base/errors.ts'
import { hostname } from 'node:os'

/**
 * Whatever handles, moves or deletes messages for a test does so in a schema for tests, and beside nobody else. `alone`: beside no worker
 * at all; otherwise those of this process may go on.
 *
 * @throws TwinboxError `IN_PRODUCTION`, `NOT_A_TEST_SCHEMA`, `WORKERS_ALIVE`
 */
export async function refuseUnsafe(database: Database, verb: string, alone: boolean): Promise<void> {
  const { schema } = database
  if (process.env['NODE_ENV'] === 'production') {
    throw new TwinboxError(
      'IN_PRODUCTION',
      `${verb} is for tests, and NODE_ENV is "production". Nothing was done. Set NODE_ENV to "test".`,
    )
  }
  const [state] = await database.query(testingSql(schema).state)
  if (!state!.marked || !state!.migrated) {
    throw new TwinboxError(
      'NOT_A_TEST_SCHEMA',
      `${verb} works in a schema for tests only, and "${schema}" is not marked as one. Nothing was done. Make one with createTestSchema.`,
    )
  }
  const living = (await readWorkers(database)).filter(
    ({ alive, host, pid }) => alive && (alone || host !== hostname() || pid !== process.pid),
  )
  if (living.length === 0) return
  const [{ kind, consumer, id, host, pid }] = living as [(typeof living)[0]]
  const more = living.length === 1 ? '' : `, and so do ${living.length - 1} more`
  throw new TwinboxError(
    'WORKERS_ALIVE',
    `${verb} may not have others at work beside it: the ${kind} ${id}${consumer === null ? '' : ` of "${consumer}"`} lives in "${schema}" (host ${host}, process ${pid})${more}. Nothing was done. Stop them, or test in a schema of your own.`,
  )
}
