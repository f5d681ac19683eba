import fc from 'fast-check'
import { expect, test } from 'vitest'
import { batchLength } from '../../src/brokers/consuming.ts'

test('a batch keeps to both bounds, is never empty, and no message more would have fitted', () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat(200), { minLength: 1, maxLength: 40 }),
      fc.integer({ min: 1, max: 20 }),
      fc.integer({ min: 1, max: 300 }),
      (sizes, batchSize, batchBytes) => {
        for (let start = 0; start < sizes.length;) {
          const length = batchLength(sizes, (size) => size, { batchSize, batchBytes }, start)
          const bytes = (count: number): number =>
            sizes.slice(start, start + count).reduce((sum, size) => sum + size, 0)
          expect(length).toBeGreaterThan(0)
          expect(length).toBeLessThanOrEqual(batchSize)
          if (length > 1) expect(bytes(length)).toBeLessThanOrEqual(batchBytes)
          if (length < batchSize && start + length < sizes.length)
            expect(bytes(length + 1)).toBeGreaterThan(batchBytes)
          start += length
        }
      },
    ),
  )
})
