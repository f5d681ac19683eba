import { afterAll, afterEach, beforeAll, beforeEach, expect, onTestFinished, test, vi } from 'vitest'
import { createOutbox, createRelay, type Broker, type OutgoingMessage } from '../../src/index.ts'
import { Pipeline } from '../../src/relay/pipeline.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { asInProduction, takeTripped } from '../support/tripwire.ts'

/** What becomes of a pipeline that is to begin a round in the middle of another one. */

let database: TestDatabase
let events: Recorder
let pipelines: Pipeline[]
/** What the broker does with its first batch. */
let first: () => Promise<void>
const sent: string[] = []

const broker: Broker = {
  name: 'own',
  async send(batch: readonly OutgoingMessage[]) {
    const isFirst = sent.length === 0
    sent.push(...batch.map(({ id }) => id))
    if (isFirst) await first()
    return batch.map(() => ({ status: 'sent' as const }))
  },
  subscribe: () => Promise.reject(new Error('Nobody receives.')),
  close: async () => {},
}

beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  sent.length = 0
  events = recordEvents()
  pipelines = []
  // oxlint-disable-next-line typescript/unbound-method
  const { run } = Pipeline.prototype
  vi.spyOn(Pipeline.prototype, 'run').mockImplementation(function (this: Pipeline) {
    if (!pipelines.includes(this)) pipelines.push(this)
    return run.call(this)
  })
})
afterEach(() => {
  vi.restoreAllMocks()
})
afterAll(() => database.drop())

/** The pipeline whose batch is at the broker. */
const busy = (): Pipeline => pipelines.find(({ inFlight }) => inFlight > 0)!

async function relayOne(): Promise<string> {
  const outbox = createOutbox()
  const { id } = await database.transaction((client) =>
    outbox.publish(client, { topic: 't', key: 'k', payload: 1 }),
  )
  const relay = createRelay({ database: database.url, broker, onEvent: events.onEvent, pollMsMax: 20 })
  onTestFinished(() => relay.stop())
  await relay.start()
  await expect.poll(() => database.query('select from twinbox.outbox'), { timeout: 20_000 }).toEqual([])
  return id
}

test('in tests it throws', async () => {
  const messages: (string | undefined)[] = []
  first = async () => {
    await expect(busy().run()).rejects.toMatchObject({ code: 'IMPOSSIBLE_MOVE' })
    messages.push(takeTripped()?.message)
  }
  const id = await relayOne()
  expect(messages).toEqual([expect.stringContaining('A pipeline cannot go from "sending" to "reading".')])
  expect(sent).toEqual([id])
})

test('in production it is an event, its lanes are given back, and what was at the broker is sent again', async () => {
  onTestFinished(asInProduction())
  const fence = async (): Promise<number> =>
    Number(
      (
        await database.query<{ fence: string }>(
          "select sum(fence) as fence from twinbox.lane where consumer = ''",
        )
      )[0]!.fence,
    )
  let before = 0
  first = async () => {
    before = await fence()
    await busy().run()
    // Whoever takes them, here the same relay, does so under other fences.
    await expect.poll(fence, { timeout: 20_000 }).toBeGreaterThan(before)
  }
  const id = await relayOne()
  expect(events.of('trouble')).toMatchObject([{ error: { code: 'IMPOSSIBLE_MOVE' }, doing: 'relaying' }])
  expect(events.of('lease_lost').length).toBeGreaterThan(0)
  // What was at the broker meanwhile was to be deleted under a fence of before.
  expect(sent).toEqual([id, id])
})
