import { expect, test } from 'vitest'
import { deliverAll, events, startClaimer, useInbox } from '../support/inbox.ts'
import { until } from '../support/until.ts'

/** How many messages without a key a claimer claims ahead. */
useInbox()

const deliver = (count: number): Promise<string[]> =>
  deliverAll(Array.from({ length: count }, (_, n) => ({ key: null, n })))
const sizes = (): number[] => events.of('claimed').map(({ ids }) => ids.length)

test('claims that come back full and are handled at once grow at once', async () => {
  await deliver(1000)
  await startClaimer({ '#': { transaction: false, handle: () => {} } }, { concurrency: 8, batchSize: 200 })
  await events.next('handled', () => true, 1000)
  // 16, 32, 64, 128, and so on. Of 16 each, there would be 63.
  expect(sizes().length).toBeLessThan(25)
  expect(Math.max(...sizes())).toBeGreaterThan(100)
})

test('a slow claimer does not sit on what others could do', async () => {
  await deliver(1000)
  const waiting: (() => void)[] = []
  const handle = (): Promise<void> => new Promise((resolve) => waiting.push(resolve))
  await startClaimer({ '#': { transaction: false, handle } }, { concurrency: 8, batchSize: 200 })
  const handled = (): number => events.of('handled').length
  for (let rounds = 0; rounds < 10; rounds++) {
    await until(() => waiting.length === 8)
    const before = handled()
    for (const end of waiting.splice(0)) end()
    await until(() => handled() === before + 8)
    expect(sizes().reduce((sum, size) => sum + size, 0) - handled()).toBeLessThanOrEqual(24)
  }
  for (const end of waiting.splice(0)) end()
})
