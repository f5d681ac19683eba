import pg from 'pg'

/** How what our statements return is read. Never by the parsers of `pg.types`, which belong to the whole process: an
 * application may have changed any of them, for its own rows. */

type Parse = (text: string) => unknown

const text: Parse = (value) => value

/** The last and the first time that a `Date` can be; a `timestamptz` can be further off, and infinitely far. */
const lastMs = 8.64e15
const toDate = (ms: number): Date => new Date(Math.max(-lastMs, Math.min(lastMs, ms)))

/**
 * A time as `instant` in `sql/statement.ts` sends it, `1764036347.123456`: seconds since 1970, which no setting of a
 * session changes. Cut to milliseconds.
 */
function parseInstant(seconds: string): Date {
  const point = seconds.length - 7
  if (seconds.charCodeAt(point) === 46)
    return toDate(Number(seconds.slice(0, point) + seconds.slice(point + 1, -3)))
  return toDate(Number(seconds) * 1000)
}

const iso =
  /^(\d{4,6})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?( BC)?$/

/** As the server writes it with `DateStyle = ISO`, in any time zone. @throws Error for any other style */
function parseTimestamp(value: string): Date {
  if (value.endsWith('infinity')) return toDate(value.startsWith('-') ? -Infinity : Infinity)
  const found = iso.exec(value)
  if (found === null) {
    throw new Error(`A time came as "${value}": the DateStyle of this session is not ISO.`)
  }
  const [, year, month, day, hour, minute, second, fraction = '', sign, ...zone] = found
  const [zoneHour, zoneMinute = '0', zoneSecond = '0', bc] = zone
  const date = new Date(0)
  // Not Date.UTC, to which the years 0 to 99 are those of the last century.
  date.setUTCFullYear(bc === undefined ? Number(year) : 1 - Number(year), Number(month) - 1, Number(day))
  const ofDay = Number(hour) * 3600 + Number(minute) * 60 + Number(second)
  const offset = Number(zoneHour) * 3600 + Number(zoneMinute) * 60 + Number(zoneSecond)
  const ms = (ofDay - (sign === '-' ? -offset : offset)) * 1000 + Number(fraction.padEnd(3, '0').slice(0, 3))
  return toDate(date.getTime() + ms)
}

/** Both forms, whatever `bytea_output` says. */
function parseBytes(value: string): Buffer {
  if (value.startsWith('\\x')) return Buffer.from(value.slice(2), 'hex')
  const bytes = value.replaceAll(/\\(?:\\|([0-3][0-7][0-7]))/g, (_, octal: string | undefined) =>
    octal === undefined ? '\\' : String.fromCharCode(Number.parseInt(octal, 8)),
  )
  return Buffer.from(bytes, 'latin1')
}

const { arrayParser } = pg.types as unknown as {
  arrayParser: { create(value: string, parse: Parse): { parse(): unknown[] } }
}
const arrayOf =
  (parse: Parse): Parse =>
  (value) =>
    arrayParser.create(value, parse).parse()

const parsers = new Map<number, Parse>([
  [16, (value) => value === 't'],
  [17, parseBytes],
  // bigint: a sequence stays below 2^53.
  [20, Number],
  // smallint, integer, oid, real, double precision, xid8.
  ...[21, 23, 26, 700, 701, 5069].map((oid): [number, Parse] => [oid, Number]),
  // smallint[], integer[], bigint[].
  ...[1005, 1007, 1016].map((oid): [number, Parse] => [oid, arrayOf(Number)]),
  // name[], text[], uuid[].
  ...[1003, 1009, 2951].map((oid): [number, Parse] => [oid, arrayOf(text)]),
  // numeric, numeric[]: nothing of ours is one but a time.
  [1700, parseInstant],
  [1231, arrayOf(parseInstant)],
  [1184, parseTimestamp],
  [3802, JSON.parse],
])

/** Anything else is a text; `json` as well, which the relay passes on and the claimer parses when the handler asks. */
export const rowTypes: pg.CustomTypesConfig = {
  getTypeParser: (oid: number): Parse => parsers.get(oid) ?? text,
}
