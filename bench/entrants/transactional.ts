import {
  DatabaseSetup,
  getDisabledLogger,
  initializeMessageStorage,
  initializePollingMessageListener,
  type PollingListenerConfig,
} from 'pg-transactional-outbox'
import { randomUUID } from 'node:crypto'
import type { Entrant, Place, Stop, Task } from '../race/entrant.ts'
import { portions, topic } from '../race/messages.ts'
import type { Tally } from '../race/tally.ts'
import { onPool } from './common.ts'

/**
 * pg-transactional-outbox, by polling, with its own tables, function and indexes. Its messages are 'parallel' and have
 * no segment, so that it may take any number of them at a time; its batches are as large as those of the others, and it
 * polls again at once.
 */

const setup = {
  outboxOrInbox: 'outbox' as const,
  database: 'bench',
  schema: 'public',
  table: 'outbox',
  listenerRole: 'postgres',
  nextMessagesName: 'next_outbox_messages',
}

/** Without the protections that cost it a transaction more per message. */
const settings = {
  dbSchema: 'public',
  dbTable: 'outbox',
  enableMaxAttemptsProtection: false,
  enablePoisonousMessageProtection: false,
}

async function create(url: string): Promise<void> {
  await onPool(url, 1, async (pool) => {
    await pool.query(DatabaseSetup.dropAndCreateTable(setup))
    await pool.query(DatabaseSetup.createPollingFunction(setup))
    await pool.query(DatabaseSetup.setupPollingIndexes(setup))
  })
}

async function fill(url: string, task: Task): Promise<void> {
  const logger = getDisabledLogger()
  const store = initializeMessageStorage({ outboxOrInbox: 'outbox', settings }, logger)
  await onPool(url, 1, async (pool) => {
    const client = await pool.connect()
    for (const portion of portions(task)) {
      await client.query('begin')
      for (const { n, payload } of portion) {
        const id = randomUUID()
        await store(
          {
            id,
            aggregateType: topic,
            aggregateId: String(n),
            messageType: topic,
            payload,
            concurrency: 'parallel',
          },
          client,
        )
      }
      await client.query('commit')
    }
    client.release()
  })
}

async function work({ url }: Place, task: Task, tally: Tally): Promise<Stop> {
  const config: PollingListenerConfig = {
    outboxOrInbox: 'outbox',
    // A pool takes them; its type here is that of a client.
    dbListenerConfig: {
      connectionString: url,
      max: task.concurrency,
    } as PollingListenerConfig['dbListenerConfig'],
    settings: {
      ...settings,
      nextMessagesFunctionSchema: 'public',
      nextMessagesFunctionName: setup.nextMessagesName,
      nextMessagesBatchSize: task.batchSize,
      nextMessagesPollingIntervalInMs: 1,
      nextMessagesLockInMs: 60_000,
    },
  }
  const [shutdown] = initializePollingMessageListener(
    config,
    {
      handle: async ({ payload }) => {
        tally.note((payload as { n: number }).n)
      },
    },
    getDisabledLogger(),
  )
  return () => shutdown()
}

export const entrants: Readonly<Record<string, Entrant>> = {
  relay: {
    create,
    fill,
    left: 'select count(*)::int as left from public.outbox where processed_at is null and abandoned_at is null',
    work,
  },
}
