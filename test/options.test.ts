import { expect, test } from 'vitest'
import { refuseUnknown } from '../src/base/options.ts'

test('an option that a list forgets, or that the type does not have, does not compile', () => {
  const given: { readonly a?: number; readonly b?: number } = { a: 1 }
  refuseUnknown('it', given, ['a', 'b'])
  // @ts-expect-error b is missing
  refuseUnknown('it', given, ['a'])
  // @ts-expect-error there is no c
  refuseUnknown('it', given, ['a', 'b', 'c'])
  expect(() => refuseUnknown('it', { ...given, d: 1 } as typeof given, ['a', 'b'])).toThrow(
    'd is not an option of it. Known are: a, b.',
  )
})
