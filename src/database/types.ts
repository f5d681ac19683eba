import pg from 'pg'

const bigintOid = 20
const xid8Oid = 5069
const jsonOid = 114
const timestamptzOid = 1184

const builtinParser = pg.types.getTypeParser as (oid: number, format?: string) => (value: string) => unknown

/**
 * As a server with the time zone UTC writes it, `2026-11-25 02:05:47.123456+00`, without the regular expression that
 * takes pg longer than all the rest of a row; anything else as pg does it.
 */
function parseTimestamp(text: string): unknown {
  if (text.charCodeAt(4) !== 45 || text.charCodeAt(10) !== 32 || !text.endsWith('+00'))
    return parseAnyTimestamp(text)
  const two = (at: number): number => text.charCodeAt(at) * 10 + text.charCodeAt(at + 1) - 528
  const fraction = text.length > 22 ? Number(text.slice(20, -3).padEnd(3, '0').slice(0, 3)) : 0
  return new Date(Date.UTC(two(0) * 100 + two(2), two(5) - 1, two(8), two(11), two(14), two(17), fraction))
}
const parseAnyTimestamp = builtinParser(timestamptzOid)

/**
 * Numbers instead of strings for bigint (a sequence stays below 2^53), and JSON as the text that it is: the relay
 * passes it on, the claimer parses it when the handler asks.
 */
export const rowTypes: pg.CustomTypesConfig = {
  getTypeParser(oid: number, format?: 'text' | 'binary'): (value: string) => unknown {
    if (oid === bigintOid || oid === xid8Oid) return Number
    if (oid === jsonOid) return (value) => value
    if (oid === timestamptzOid) return parseTimestamp
    return builtinParser(oid, format)
  },
}
