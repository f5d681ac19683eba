import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { breachCounts, rules } from '../../proof/sql/ledger.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** An oracle that finds nothing proves nothing: each rule is broken once, and only that one speaks. */

const ids = [1, 2, 3, 4].map((n) => `00000000-0000-7000-8000-00000000000${n}`)
const [first, second, keyless, other] = ids
const books = { ledger: 'ledger', effects: 'effects', nth: 'at', same: ['key', 'n'] }
let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase({ migrated: false })
  await database.query(`
    create table ledger (at bigserial, id uuid, key text, n int);
    create table effects (at bigserial, id uuid, key text, n int);`)
})
afterAll(() => database.drop())

type Row = readonly [id: string | undefined, key: string | null, n: number]

const published: readonly Row[] = [
  [first, 'a', 1],
  [second, 'a', 2],
  [keyless, null, 3],
]

async function write(table: string, rows: readonly Row[]): Promise<void> {
  for (const row of rows)
    await database.query(`insert into ${table} (id, key, n) values ($1, $2, $3)`, [...row])
}

async function broken(): Promise<Record<string, number>> {
  const [counts] = await database.query<Record<string, number>>(`select ${breachCounts(books)}`)
  expect(Object.keys(counts!)).toEqual([...rules])
  return Object.fromEntries(Object.entries(counts!).filter(([, count]) => count > 0))
}

beforeEach(async () => {
  await database.query('truncate ledger, effects')
  await write('ledger', published)
})

test('what was handled as it was committed breaks no rule', async () => {
  await write('effects', [published[0]!, published[2]!, published[1]!])
  expect(await broken()).toEqual({})
})

test.each<{ rule: string; effects: readonly Row[]; count: number }>([
  { rule: 'lost', effects: [published[0]!], count: 2 },
  { rule: 'ghosts', effects: [...published, [other, 'a', 4]], count: 1 },
  { rule: 'altered', effects: [published[0]!, published[1]!, [keyless, 'a', 3]], count: 1 },
  { rule: 'altered', effects: [[first, 'a', 9], published[1]!, published[2]!], count: 1 },
  { rule: 'duplicateEffects', effects: [...published, published[2]!, published[2]!], count: 2 },
  { rule: 'orderViolations', effects: [published[1]!, published[0]!, published[2]!], count: 1 },
])('$rule', async ({ rule, effects, count }) => {
  await write('effects', effects)
  expect(await broken()).toEqual({ [rule]: count })
})
