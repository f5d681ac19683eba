import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { catalogue, printed } from '../src/database/sql/catalogue.ts'
import * as types from '../src/database/sql/parameter.ts'
import { planned, prepared } from '../src/database/sql/statement.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

describe('parameters', () => {
  test('are numbered in their order, each cast to its type, and nothing else is one', () => {
    const statement = planned(
      { worker: types.int, ids: types.uuids },
      `select $ids, '{"a":1}'::json, array[1, 2][1:2], $worker, a$worker, $worker + 1 from f(n := $1)`,
    )
    expect(statement.text).toBe(
      `select $2::pg_catalog.uuid[], '{"a":1}'::json, array[1, 2][1:2], $1::int, a$worker, $1::int + 1 from f(n := $1)`,
    )
    expect(statement.bind({ worker: 7, ids: ['x', 'y'] })).toEqual([7, '{x,y}'])
  })

  test('that are used and not taken, or taken and not used, are refused', () => {
    expect(() => prepared({ id: types.int }, 'select $id, $other')).toThrow('$other')
    expect(() => prepared({ id: types.int, other: types.int }, 'select $id')).toThrow('other')
  })

  test('are sent as texts where drivers have ideas of their own', () => {
    const { text, takes } = planned(
      { at: types.asText(types.smallint), on: types.asText(types.boolean), key: types.optional(types.text) },
      'select $at, $on, $key',
    )
    expect(text).toBe(
      'select $1::pg_catalog.text::smallint, $2::pg_catalog.text::boolean, $3::pg_catalog.text',
    )
    expect([takes.at.encode(3), takes.on.encode(false), takes.key.encode(null)]).toEqual(['3', 'false', null])
  })

  test('of which a row has none are null, or empty, as `unnest` and `any` need them', () => {
    expect(types.sparse(types.texts).encode([null, null])).toBeNull()
    expect(types.sparse(types.texts).encode(['a', null])).toEqual(['a', null])
    expect(types.texts.encode([])).toEqual([])
    expect(types.textsOrEmpty.encode(['a"b', null])).toBe(String.raw`{"a\"b",""}`)
    expect(types.pieces([Buffer.from('ab'), null, Buffer.from('c')])).toEqual({
      bytes: Buffer.from('abc'),
      starts: [1, null, 3],
      sizes: [2, null, 1],
    })
  })
})

test('the catalogue has every statement, each under a name that Postgres keeps whole', () => {
  const folder = new URL('../src/database/sql/', import.meta.url)
  const written = readdirSync(folder)
    .map((file) => readFileSync(new URL(file, folder), 'utf8'))
    .flatMap((text) => [...text.matchAll(/perSchema\('(\w+)'/g)].map(([, room]) => room!))
  const statements = catalogue('s'.repeat(63))
  expect(new Set([...statements.keys()].map((path) => path.split('.')[0]))).toEqual(new Set(written))
  const names = [...statements.values()].map(({ name }) => name)
  expect(names.filter((name) => name.length > 63)).toEqual([])
  expect(new Set(names).size).toBe(statements.size)
})

describe('every statement that is printed', () => {
  let database: TestDatabase
  beforeAll(async () => {
    database = await createTestDatabase()
  })
  afterAll(() => database.drop())

  test.each([...catalogue('twinbox')])('%s runs', async (path, statement) => {
    await database.transaction(async (client) => {
      // Several statements in one message, as psql sends a file with -c.
      await expect(client.query(printed(path, statement))).resolves.toBeDefined()
      await client.query('rollback; begin')
    })
  })

  test('also in psql, all of them', () => {
    const texts = [...catalogue('twinbox')].map(([path, statement]) => printed(path, statement))
    const script = ['begin;', ...texts, 'rollback;'].join('\n')
    const { error, status, stderr } = spawnSync('psql', ['-X', '-q', '-v', 'ON_ERROR_STOP=1', database.url], {
      input: script,
      encoding: 'utf8',
      stdio: ['pipe', 'ignore', 'pipe'],
    })
    if (error !== undefined && 'code' in error && error.code === 'ENOENT') return
    expect({ error, status, stderr: stderr.replaceAll(/.*NOTICE.*\n/g, '') }).toEqual({
      status: 0,
      stderr: '',
    })
  })
})
