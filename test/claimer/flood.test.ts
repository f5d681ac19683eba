import { expect, test, vi } from 'vitest'
import { deliverAll, events, startClaimer, useInbox, type Delivery } from '../support/inbox.ts'

/** A topic with a long backlog, and those that share its consumer. */

useInbox()
vi.setConfig({ testTimeout: 120_000 })

const flood = 1500
const concurrency = 10

/** Handlers that hang until they are let go, one by one, and what they have begun with. */
const hanging = () => {
  const waiting: (() => void)[] = []
  const begun: string[] = []
  let open = false
  return {
    begun,
    waiting,
    handle: async ({ id }: { id: string }): Promise<void> => {
      begun.push(id)
      if (!open) await new Promise<void>((resolve) => waiting.push(resolve))
    },
    letAllGo: (): void => {
      open = true
      for (const go of waiting) go()
    },
  }
}

const claimed = (): ReadonlySet<string> => new Set(events.of('claimed').flatMap(({ ids }) => ids))

const keyed = (key: string) => (n: number) => `${key}${n}`
const unkeyed = () => null

test.each([
  ['with keys', keyed('f'), keyed('q')],
  ['without keys', unkeyed, unkeyed],
  ['with keys, and the others have none', keyed('f'), unkeyed],
  ['without keys, and the others have some', unkeyed, keyed('q')],
])(
  'a flood %s: another topic of the consumer waits for a few of its handlers',
  async (_, keyOf, otherKeyOf) => {
    const slow = hanging()
    const done: string[] = []
    const deliver = (topic: string, count: number, key: (n: number) => string | null): Promise<string[]> =>
      deliverAll(Array.from({ length: count }, (__, n): Delivery => ({ topic, key: key(n), n })))
    await deliver('flood', flood, keyOf)
    await startClaimer(
      {
        flood: { transaction: false, handle: slow.handle },
        '#': { transaction: false, handle: ({ id }) => void done.push(id) },
      },
      { concurrency, stopTimeoutMs: 100 },
    )
    await expect.poll(() => slow.waiting.length, { timeout: 100_000 }).toBe(concurrency)
    const others = await deliver('other', 5, otherKeyOf)
    // It is found behind what fills the claimer, although none of that has been handled.
    await expect.poll(() => others.filter((id) => claimed().has(id)).length, { timeout: 100_000 }).toBe(5)
    for (let free = 1; done.length < others.length; free++) {
      slow.waiting.shift()!()
      const goesOn = (): boolean => slow.waiting.length === concurrency || done.length === others.length
      await expect.poll(goesOn, { timeout: 100_000 }).toBe(true)
      expect(free).toBeLessThanOrEqual(2 * others.length)
    }
    slow.letAllGo()
  },
)

test.each([
  ['with keys', keyed('f'), keyed('q'), 500],
  ['without keys', unkeyed, unkeyed, 500],
  ['with keys, of which little is in flight,', keyed('f'), keyed('q'), 50],
  ['without keys, of which little is in flight,', unkeyed, unkeyed, 50],
])(
  'a flood %s that is spread over many topics keeps another one waiting for a few turns of each',
  async (_, keyOf, otherKeyOf, batchSize) => {
    const topics = 60
    const slow = hanging()
    const done: string[] = []
    await deliverAll(
      Array.from({ length: 6000 }, (__, n): Delivery => ({ topic: `flood.${n % topics}`, key: keyOf(n), n })),
    )
    const others = await deliverAll(
      Array.from({ length: 3 }, (__, n): Delivery => ({ topic: 'other', key: otherKeyOf(n), n })),
    )
    await startClaimer(
      {
        'flood.*': { transaction: false, handle: slow.handle },
        other: { transaction: false, handle: ({ id }) => void done.push(id) },
      },
      { concurrency, batchSize, stopTimeoutMs: 100 },
    )
    await expect.poll(() => slow.waiting.length, { timeout: 100_000 }).toBe(concurrency)
    let handled = 0
    while (done.length < others.length) {
      // None of the flood is let go before the next one of the other topic is found.
      await expect.poll(() => claimed().has(others[done.length]!), { timeout: 20_000 }).toBe(true)
      const before = done.length
      while (done.length === before) {
        handled++
        slow.waiting.shift()!()
        const goesOn = (): boolean => slow.waiting.length === concurrency || done.length > before
        await expect.poll(goesOn, { timeout: 20_000, interval: 2 }).toBe(true)
      }
    }
    expect(handled).toBeLessThanOrEqual(2 * topics * others.length)
    slow.letAllGo()
  },
)

test('behind a flood, nothing of a key goes before what stands before it', async () => {
  const slow = hanging()
  const order = new Map<string, number[]>()
  const note = ({ key, payload }: { key: string | null; payload: unknown }): void => {
    order.set(key!, [...(order.get(key!) ?? []), (payload as { n: number }).n])
  }
  // Of each of these keys, the last two are behind one of the flood.
  const keys = Array.from({ length: 60 }, (_, n) => `k${n}`)
  const first = Array.from({ length: flood }, (_, n): Delivery => ({ topic: 'flood', key: `f${n}`, n }))
  const mixed = (topic: string, n: number): Delivery[] => keys.map((key) => ({ topic, key, n }))
  const heads = (await deliverAll([...first, ...mixed('flood', 0)])).slice(first.length)
  await startClaimer(
    {
      flood: {
        transaction: false,
        handle: async (message) => {
          await slow.handle(message)
          note(message)
        },
      },
      '#': { transaction: false, handle: note },
    },
    { concurrency, stopTimeoutMs: 100 },
  )
  await expect.poll(() => slow.waiting.length, { timeout: 100_000 }).toBe(concurrency)
  const behind = await deliverAll([...mixed('other', 1), ...mixed('other', 2)])
  const free = await deliverAll(keys.map((_, n) => ({ topic: 'other', key: `q${n}`, n })))
  await expect
    .poll(() => free.filter((id) => claimed().has(id)).length, { timeout: 100_000 })
    .toBeGreaterThan(8)
  // Nor is it taken before that: whoever takes a lane over could not know what of it has been attempted.
  const taken = behind.flatMap((id, n) => (claimed().has(id) ? [n % keys.length] : []))
  expect(taken.filter((n) => !claimed().has(heads[n]!))).toEqual([])
  expect(taken.length).toBeLessThan(keys.length)
  slow.letAllGo()
  await expect
    .poll(() => keys.filter((key) => order.get(key)?.length === 3).length, { timeout: 100_000 })
    .toBe(60)
  for (const key of keys) expect(order.get(key)).toEqual([0, 1, 2])
})

test('a flood that is deeper than what is read at once is looked through for what others have', async () => {
  const slow = hanging()
  const done: string[] = []
  const many = Array.from({ length: 6000 }, (_, n): Delivery => ({ topic: 'flood', key: `f${n}`, n }))
  await deliverAll(many)
  const others = await deliverAll([{ topic: 'other', key: 'q', n: 0 }])
  await startClaimer(
    { flood: { transaction: false, handle: slow.handle }, other: ({ id }) => void done.push(id) },
    { concurrency, batchSize: 50, stopTimeoutMs: 100 },
  )
  await expect.poll(() => claimed().has(others[0]!), { timeout: 100_000 }).toBe(true)
  // No more than what fits is held of the flood.
  expect(claimed().size).toBeLessThanOrEqual(126)
  slow.letAllGo()
  await expect.poll(() => done, { timeout: 100_000 }).toEqual(others)
})
