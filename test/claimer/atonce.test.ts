import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createClaimer } from '../../src/claimer/claimer.ts'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import type { Telemetry } from '../../src/index.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { inboxMessage } from '../support/messages.ts'

/** Which path a message takes depends on its handler. Who watches, a failpoint or a tracer, sees what runs in production. */

let database: TestDatabase
let inbox: Database
beforeAll(async () => {
  database = await createTestDatabase()
  inbox = new Database(database.url)
})
afterAll(async () => {
  await inbox.close()
  await database.drop()
})

test.each([
  { isAsync: false, key: 'k', watched: 'nobody' },
  { isAsync: false, key: 'k', watched: 'failpoint' },
  { isAsync: false, key: null, watched: 'telemetry' },
  { isAsync: false, key: null, watched: 'both' },
  { isAsync: true, key: 'k', watched: 'both' },
])(
  'is called at once (watched by $watched, async: $isAsync, key $key)',
  async ({ isAsync, key, watched }) => {
    const consumer = `c${randomUUID().slice(0, 8)}`
    const events = recordEvents()
    const seen: string[] = []
    /** Whether the event loop has gone on since the dispatch: whoever is called at once comes before. */
    let hasWaited = false
    const telemetry: Telemetry = {
      begin({ name, system }, messages) {
        seen.push(`begin ${system} ${name} ${messages.length}`)
        return {
          carried: [],
          run(work) {
            seen.push('run')
            return work()
          },
          end: (failureOf) => void seen.push(`end ${String(failureOf?.(0))}`),
        }
      },
    }
    const isTraced = watched === 'telemetry' || watched === 'both'
    const isHit = watched === 'failpoint' || watched === 'both'
    const claimer = createClaimer(
      {
        ...{ database: database.url, consumer, telemetry: isTraced ? telemetry : undefined },
        onEvent(event) {
          events.onEvent(event)
          if (event.type !== 'claimed') return
          hasWaited = false
          queueMicrotask(() => (hasWaited = true))
        },
      },
      {
        t: {
          transaction: false,
          handle: () => {
            seen.push(hasWaited ? 'called later' : 'called at once')
            if (isAsync) return Promise.resolve()
            return undefined
          },
        },
      },
      isHit ? (point) => void seen.push(point) : undefined,
    )
    await claimer.start()
    await receive(inbox, [inboxMessage({ consumer, key, publishedAt: new Date() })])
    await events.next('handled')
    await claimer.stop()
    const hit = (point: string): string[] => (isHit ? [`claimer.${point}`] : [])
    const traced = (what: string): string[] => (isTraced ? [what] : [])
    expect(seen.filter((what) => what !== 'claimer.after_claim')).toEqual([
      ...traced('begin twinbox handle 1'),
      ...hit('before_handle'),
      ...traced('run'),
      'called at once',
      ...hit('before_settle'),
      ...hit('after_commit'),
      ...traced('end undefined'),
    ])
  },
)
