import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import { createClaimer, type ClaimerOptions, type Handlers, type Worker } from '../../src/index.ts'
import { recordEvents, type Recorder } from './events.ts'
import { createTestDatabase, type TestDatabase } from './postgres.ts'
import { inboxMessage } from './messages.ts'

export let database: TestDatabase
export let inbox: Database
/** One for each test, as the events and the claimers. */
export let consumer: string
export let events: Recorder
/** Stopped when the test ends. */
export const claimers: Worker[] = []

/** Gives a test file an inbox of its own, and each of its tests a consumer. */
export function useInbox(): void {
  beforeAll(async () => {
    database = await createTestDatabase()
    inbox = new Database(database.url)
  })
  beforeEach(() => {
    consumer = `c${randomUUID().slice(0, 8)}`
    events = recordEvents()
  })
  afterEach(async () => {
    await Promise.all(claimers.splice(0).map((claimer) => claimer.stop()))
  })
  afterAll(async () => {
    await inbox.close()
    await database.drop()
  })
}

export interface Delivery {
  readonly topic?: string
  readonly key: string | null
  readonly n: number
}

/** Messages for the consumer, with `n` as payload. Returns their ids. */
export async function deliverAll(deliveries: readonly Delivery[], into = inbox): Promise<string[]> {
  const messages = deliveries.map(({ topic = 'order.placed', key, n }) =>
    inboxMessage({ consumer, topic, key, payload: JSON.stringify({ n }), publishedAt: new Date() }),
  )
  await receive(into, messages)
  return messages.map(({ id }) => id)
}

/** Starts a claimer of the consumer. */
export async function startClaimer(
  handlers: Handlers<unknown>,
  options: Partial<ClaimerOptions> = {},
): Promise<Worker> {
  const claimer = createClaimer(
    {
      database: database.url,
      consumer,
      backoffMsMin: 1,
      backoffMsMax: 5,
      onEvent: events.onEvent,
      ...options,
    },
    handlers,
  )
  claimers.push(claimer)
  await claimer.start()
  return claimer
}
