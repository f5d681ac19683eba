import { isPassing } from '../../src/database/sqlstate.ts'
import { TransactionError } from '../../src/base/errors.ts'
import type { Stage } from '../crash/stage.ts'
import type { TestDatabase } from '../support/postgres.ts'

/** Publishers that go on through any outage of the database, as the application of a user's would. */
export function publishThroughout(
  stage: Stage,
  publishers: number,
): { stop(): Promise<void>; refused(): number } {
  let publishing = true
  let refused = 0
  const publish = async (): Promise<void> => {
    while (publishing) {
      const keys = Array.from({ length: 5 }, () => `k${Math.floor(Math.random() * 10)}`)
      try {
        await stage.publishLocked(keys)
      } catch (error) {
        // Whether it was committed or not, the ledger knows, which is written in the same transaction.
        if (!isPassing(error) && !(error instanceof TransactionError)) throw error
        refused++
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    }
  }
  const all = Promise.all(Array.from({ length: publishers }, publish))
  // Looked at when they are stopped.
  all.catch(() => {})
  return {
    refused: () => refused,
    stop: async () => {
      publishing = false
      await all
    },
  }
}

/** Whether as many workers as there should be have given a sign of life since a moment, as SQL. */
export const aliveSince = (workers: number, moment: string): string =>
  `select count(*) = ${workers} as done from twinbox.worker where ended_at is null and beat_at > ${moment}`

/** The backend of a connection is killed, and with it all others: the server begins anew, without a restart. */
export async function crashBackend(database: TestDatabase): Promise<void> {
  const client = await database.pool.connect()
  const gone = new Promise<void>((resolve) => client.once('end', resolve))
  const { rows } = await client.query<{ pid: number }>('select pg_backend_pid() as pid')
  process.kill(rows[0]!.pid, 'SIGKILL')
  await gone
  client.release(true)
}
