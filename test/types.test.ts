import fc from 'fast-check'
import pg from 'pg'
import { expect, test } from 'vitest'
import { rowTypes } from '../src/database/types.ts'

const timestamptz = pg.types.builtins.TIMESTAMPTZ
const ours = rowTypes.getTypeParser(timestamptz, 'text') as (text: string) => unknown
const theirs = pg.types.getTypeParser(timestamptz) as (text: string) => unknown

test('timestamps are read as pg reads them', () => {
  const usual = fc
    .tuple(
      fc.date({ min: new Date('1000-01-01'), max: new Date('9999-12-31'), noInvalidDate: true }),
      fc.nat(6),
    )
    .map(([date, digits]) => {
      const [day, time] = date.toISOString().split('T') as [string, string]
      // As Postgres does: without the zeros at the end.
      const fraction = `${time.slice(9, 12)}456`.slice(0, digits).replace(/0+$/, '')
      return `${day} ${time.slice(0, 8)}${fraction === '' ? '' : `.${fraction}`}+00`
    })
  fc.assert(
    fc.property(usual, (text) => {
      expect([text, ours(text)]).toEqual([text, theirs(text)])
    }),
  )
  const others = ['infinity', '-infinity', '2026-11-25 02:05:47.123+05:30', '0044-03-15 00:00:00+00 BC']
  for (const text of [...others, '10000-01-01 00:00:00+00']) {
    expect([text, ours(text)]).toEqual([text, theirs(text)])
  }
})
