import fc from 'fast-check'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { instant } from '../src/database/sql/statement.ts'
import { rowTypes } from '../src/database/types.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

let database: TestDatabase
let client: pg.Client
beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
  client = new pg.Client(database.url)
  await client.connect()
})
afterAll(async () => {
  await client.end()
  await database.drop()
})

async function read(expression: string, value: unknown): Promise<unknown> {
  const query = { text: `select ${expression} as value`, values: [value], types: rowTypes }
  return (await client.query<{ value: unknown }>(query)).rows[0]!.value
}

const times = fc.date({ min: new Date('0001-01-02'), max: new Date('9999-12-30'), noInvalidDate: true })
const zones = fc.constantFrom('UTC', 'Asia/Kolkata', 'America/St_Johns', 'Asia/Shanghai', 'Europe/Amsterdam')
const styles = fc.constantFrom('ISO', 'SQL, DMY', 'German', 'Postgres', 'Postgres, YMD')

test('a time is read as it is, whatever the session makes of times', async () => {
  await fc.assert(
    fc.asyncProperty(times, zones, styles, async (time, zone, style) => {
      await client.query(`set timezone = '${zone}'; set datestyle = '${style}'`)
      const at = '$1::timestamptz'
      const text = time.toISOString()
      const shown = style === 'ISO' ? await read(at, text) : time
      expect([shown, await read(instant(at), text)]).toEqual([time, time])
    }),
    { numRuns: 200 },
  )
  const far = [new Date(-8.64e15), new Date(8.64e15)]
  await client.query("set datestyle = 'ISO'")
  for (const [index, text] of ['-infinity', 'infinity'].entries()) {
    expect(await read('$1::timestamptz', text)).toEqual(far[index])
    expect(await read(instant('$1::timestamptz'), text)).toEqual(far[index])
  }
  expect(await read(instant('$1::timestamptz'), '290000-01-01')).toEqual(far[1])
  await client.query("set datestyle = 'German'")
  await expect(read('$1::timestamptz', '2026-11-25')).rejects.toThrow('DateStyle')
})

test('bytes are read as they are, in either output', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array(), fc.constantFrom('hex', 'escape'), async (bytes, output) => {
      await client.query(`set bytea_output = ${output}`)
      expect(await read('$1::bytea', Buffer.from(bytes))).toEqual(Buffer.from(bytes))
    }),
    { numRuns: 100 },
  )
})

test('nothing of ours is read as the application has told pg to read its own rows', async () => {
  const oids = [16, 17, 20, 21, 23, 25, 26, 114, 701, 1005, 1007, 1009, 1016, 1184, 1700, 2950, 3802]
  const table = pg.types as unknown as {
    getTypeParser(oid: number): unknown
    setTypeParser(oid: number, parser: unknown): void
  }
  const theirs = oids.map((oid) => [oid, table.getTypeParser(oid)] as const)
  for (const oid of oids) table.setTypeParser(oid, () => ({ theirs: true }))
  try {
    const id = crypto.randomUUID()
    const values: [string, unknown, unknown][] = [
      ['$1::boolean', 'f', false],
      ['$1::bigint', '9007199254740991', 9_007_199_254_740_991],
      ['$1::integer', 1, 1],
      ['$1::float8', 1.5, 1.5],
      ['$1::text', 'ä', 'ä'],
      ['$1::uuid', id, id],
      ['$1::json', '{"a": 1}', '{"a": 1}'],
      ['$1::jsonb', '{"a": 1}', { a: 1 }],
      ['$1::int[]', '{1,NULL}', [1, null]],
      ['$1::text[]', '{"a\\"",NULL,"NULL"}', ['a"', null, 'NULL']],
    ]
    for (const [expression, value, expected] of values)
      expect(await read(expression, value)).toEqual(expected)
  } finally {
    for (const [oid, parser] of theirs) table.setTypeParser(oid, parser)
  }
})
