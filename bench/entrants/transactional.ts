import {
  DatabaseSetup,
  getDisabledLogger,
  initializePollingMessageListener,
  type PollingListenerConfig,
} from 'pg-transactional-outbox'
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

/** As its own `initializeMessageStorage` does, which takes a statement for each message. */
const insert = `insert into public.outbox
    (id, aggregate_type, aggregate_id, message_type, payload, created_at, concurrency)
  select gen_random_uuid(), $1, m.n, $1, m.payload, clock_timestamp(), 'parallel'
  from unnest($2::text[], $3::jsonb[]) as m(n, payload)`

async function fill(url: string, task: Task): Promise<void> {
  await onPool(url, 1, async (pool) => {
    for (const portion of portions(task)) {
      await pool.query(insert, [
        topic,
        portion.map(({ n }) => String(n)),
        portion.map(({ payload }) => JSON.stringify(payload)),
      ])
    }
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
    // By default it takes one at a time until it has taken a batch's number of them.
    { batchSizeStrategy: async () => task.batchSize },
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
