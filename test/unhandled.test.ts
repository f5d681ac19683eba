import { expect, test } from 'vitest'
import { renderStatus } from '../src/cli/status.ts'
import { fit } from '../src/terminal/section.ts'
import {
  diagnose,
  readMessages,
  readStatus,
  type ClaimerOptions,
  type Handlers,
  type Worker,
} from '../src/index.ts'
import {
  consumer,
  database,
  deliverAll,
  events,
  startClaimer,
  useInbox,
  type Delivery,
} from './support/inbox.ts'

useInbox()

/** The topics in turns, in each of the keys. */
const mixed = (
  topics: readonly string[],
  keys: readonly (string | null)[],
  count: number,
): Required<Delivery>[] =>
  Array.from({ length: count }, (_, n) => ({
    topic: topics[Math.floor(n / keys.length) % topics.length]!,
    key: keys[n % keys.length]!,
    n,
  }))

interface Handled extends Required<Delivery> {
  readonly by: string
  readonly attempt: number
}

/** Starts a claimer with handlers for these topics, all of which write down what they get. */
async function start(
  by: string,
  topics: readonly string[],
  handled: Handled[],
  options: Partial<ClaimerOptions> = {},
): Promise<Worker> {
  const handle: Handlers<unknown>[string] = {
    transaction: false,
    handle: ({ topic, key, payload }, { attempt }) =>
      void handled.push({ by, attempt, topic, key, n: (payload as { n: number }).n }),
  }
  return startClaimer(Object.fromEntries(topics.map((topic) => [topic, handle])), {
    backoffMsMax: 20,
    ...options,
  })
}

const count = async (table: string): Promise<number> => {
  const [row] = await database.query<{ count: number }>(
    `select count(*)::int as count from twinbox.${table} where consumer = $1`,
    [consumer],
  )
  return row!.count
}
const handledAll = (handled: readonly Handled[], expected: number): Promise<unknown> =>
  expect.poll(() => handled.length, { timeout: 20_000, interval: 20 }).toBe(expected)
const inOrder = (handled: readonly Handled[]): void => {
  for (const key of new Set(handled.map((each) => each.key))) {
    const own = handled.filter((each) => each.key === key && key !== null).map(({ n }) => n)
    expect(own).toEqual(own.toSorted((a, b) => a - b))
  }
}
const unfailed = (): void => {
  expect(events.of('message_failed')).toEqual([])
  expect(events.of('dead_letter')).toEqual([])
  expect(events.of('lease_lost')).toEqual([])
}

test('what has no handler waits apart, its keys go on, and it returns in order to a claimer that has one', async () => {
  const deliveries = mixed(['invoice.made', 'order.placed', 'invoice.paid'], ['a', 'b', 'c', null], 120)
  const handled: Handled[] = []
  await deliverAll(deliveries)
  const old = await start('old', ['order.#'], handled)
  await handledAll(handled, 40)
  await expect.poll(() => count('unhandled'), { timeout: 10_000 }).toBe(80)
  expect(await count('inbox')).toBe(0)
  unfailed()
  const waiting = await readMessages(database.url, { states: ['unhandled'], consumer }, { limit: 1000 })
  expect(new Set(waiting.map(({ topic, attempt }) => `${topic} ${attempt}`))).toEqual(
    new Set(['invoice.made 0', 'invoice.paid 0']),
  )
  const [status] = (await readStatus(database.url)).consumers.filter((each) => each.consumer === consumer)
  expect(status).toMatchObject({ depth: 80, lagMs: expect.toSatisfy((ms: number) => ms > 0) as number })
  expect(status!.unhandled).toMatchObject([
    { topic: 'invoice.made', depth: 40, hasHandler: false },
    { topic: 'invoice.paid', depth: 40, hasHandler: false },
  ])
  const said = `${consumer} receives invoice.made, and no living claimer has a handler`
  expect(fit(renderStatus(await readStatus(database.url)))).toContain(said)
  const findings = await diagnose(database.url)
  expect(findings.filter(({ found }) => found.includes(said))).toMatchObject([
    { level: 'wrong', check: 'topics' },
  ])
  await old.stop()
  // What is new waits behind what waited.
  await deliverAll([{ topic: 'invoice.made', key: 'a', n: 1000 }])
  handled.splice(0)
  await start('new', ['order.#', 'invoice.*'], handled)
  await handledAll(handled, 81)
  inOrder(handled)
  expect(new Set(handled.map(({ attempt }) => attempt))).toEqual(new Set([1]))
  expect(await count('unhandled')).toBe(0)
  unfailed()
})

test('while versions are mixed, what only one of them can handle goes to that one, uncounted', async () => {
  const handled: Handled[] = []
  for (const by of ['old 1', 'old 2', 'old 3']) await start(by, ['order.#'], handled)
  await start('new', ['order.#', 'invoice.#'], handled)
  const keys = [...Array.from({ length: 20 }, (_, n) => `k${n}`), null]
  const rounds = 4
  for (let round = 0; round < rounds; round++) {
    await deliverAll(
      mixed(['invoice.made', 'order.placed'], keys, 84).map((each) => ({ ...each, n: round * 100 + each.n })),
    )
    await handledAll(handled, 84 * (round + 1))
  }
  const invoices = handled.filter(({ topic }) => topic === 'invoice.made')
  expect(invoices).toHaveLength(42 * rounds)
  expect(new Set(invoices.map(({ by, attempt }) => `${by} ${attempt}`))).toEqual(new Set(['new 1']))
  inOrder(invoices)
  inOrder(handled.filter(({ topic }) => topic === 'order.placed'))
  unfailed()
})

test('of a lane of which two have a part each, both get theirs', async () => {
  const handled: Handled[] = []
  await deliverAll(mixed(['invoice.made', 'refund.made', 'order.placed'], ['a', 'b', 'c'], 90))
  const old = await start('old', ['order.#'], handled)
  await handledAll(handled, 30)
  await expect.poll(() => count('unhandled'), { timeout: 10_000 }).toBe(60)
  await start('invoices', ['order.#', 'invoice.#'], handled)
  await start('refunds', ['order.#', 'refund.#'], handled)
  await old.stop()
  await handledAll(handled, 90)
  inOrder(handled.filter(({ topic }) => topic === 'invoice.made'))
  inOrder(handled.filter(({ topic }) => topic === 'refund.made'))
  expect(new Set(handled.map(({ by, topic, attempt }) => `${by} ${topic} ${attempt}`))).toEqual(
    new Set(['old order.placed 1', 'invoices invoice.made 1', 'refunds refund.made 1']),
  )
  expect(await count('unhandled')).toBe(0)
  unfailed()
})

test('fail counts it as a failure, drop ends it', async () => {
  const handled: Handled[] = []
  await deliverAll(mixed(['invoice.made', 'order.placed'], ['a', null], 8))
  const dropping = await start('drops', ['order.#'], handled, { unknown: 'drop' })
  await handledAll(handled, 4)
  await events.next('dropped', ({ topic }) => topic === 'invoice.made')
  await expect.poll(() => count('inbox')).toBe(0)
  expect(await count('unhandled')).toBe(0)
  unfailed()
  await dropping.stop()
  await deliverAll(mixed(['invoice.made'], [null], 1))
  await start('fails', ['order.#'], handled, { unknown: 'fail', maxAttempts: 2 })
  const { error } = await events.next('message_failed')
  expect(String(error)).toContain('no handler for the topic "invoice.made"')
  await events.next('dead_letter')
})

test('what waits for nobody is ended by a claimer that drops', async () => {
  const handled: Handled[] = []
  await deliverAll(mixed(['invoice.made'], ['a', 'b', null], 9))
  const old = await start('old', ['order.#'], handled)
  await expect.poll(() => count('unhandled'), { timeout: 10_000 }).toBe(9)
  await old.stop()
  await start('drops', ['order.#'], handled, { unknown: 'drop' })
  await expect.poll(() => count('unhandled'), { timeout: 10_000 }).toBe(0)
  await expect.poll(() => count('inbox'), { timeout: 10_000 }).toBe(0)
  expect(events.of('dropped').flatMap(({ ids }) => ids)).toHaveLength(9)
})
