import type { Statement } from '../src/database/sql/statement.ts'
import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Database } from '../src/database/database.ts'
import type { Parameters, ValuesOf } from '../src/database/sql/parameter.ts'
import { readingSql } from '../src/database/sql/reading.ts'
import { laneSql } from '../src/database/sql/lane.ts'
import { createClaimer, type Worker } from '../src/index.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { until } from './support/until.ts'

/** A worker writes its lanes from several connections at once, and none of that may leave a lane to nobody. */
let database: TestDatabase
let own: Database
let events: Recorder
beforeAll(async () => {
  database = await createTestDatabase()
  own = new Database(database.url)
})
beforeEach(() => {
  events = recordEvents()
})
afterAll(async () => {
  await own.close()
  await database.drop()
})

interface Node {
  readonly 'Node Type': string
  readonly Plans?: Node[]
}

/** Else two statements that write the same lanes wait for each other, until Postgres ends one of them with an error. */
describe('lanes are locked in their order', () => {
  const holder = 1
  const lanes = [2, 0, 1]
  const fences = [7, 7, 7]
  const given = { lanes, fences, watermarks: [0, 0, 0], lowered: [0, 0, 0], servers: ['', '', ''] }
  const call = <Takes extends Parameters>(
    statement: Statement<Takes>,
    values: ValuesOf<Takes>,
  ): [string, unknown[]] => [statement.text, statement.bind(values)]
  const statements: Record<string, (consumer: string) => [string, unknown[]]> = {
    renew: (consumer) =>
      call(laneSql(own.schema).renew, { consumer, worker: holder, leaseMs: 60_000, ...given }),
    release: (consumer) => call(laneSql(own.schema).release, { consumer, worker: holder, ...given }),
    read: (consumer) =>
      call(readingSql(own.schema).read, {
        ...{ consumer, lanes, fences, bounds: [0, 0, 0], budgets: [9, 9, 9], reaches: [0, 0, 0] },
        ...{ held: [[], [], []], mark: false, room: 9, alone: true, bytes: 8e6, limit: 100 },
        past: [null, null, null],
        server: '',
      }),
  }
  test.each(Object.keys(statements))('%s', async (name) => {
    const [text, values] = statements[name]!(randomUUID())
    const [explained] = await database.query<{ 'QUERY PLAN': [{ Plan: Node }] }>(
      `explain (format json) ${text}`,
      values,
    )
    const nodes: string[] = []
    const walk = (node: Node): void => {
      nodes.push(node['Node Type'])
      node.Plans?.forEach(walk)
    }
    walk(explained!['QUERY PLAN'][0].Plan)
    // What comes to be locked is sorted, whatever way the planner finds; and what is updated after that is ours already.
    expect(nodes.filter((node) => node === 'LockRows')).toHaveLength(1)
    expect(text).toMatch(/order by l\.lane\s+for no key update of l/)
  })
})

describe('a lane that could not be given back', () => {
  let workers: Worker[] = []
  afterEach(async () => {
    await Promise.all(workers.map((worker) => worker.stop()))
    workers = []
  })

  test('is tried again, and does not wait for its lease to run out', async () => {
    await database.query(
      `create function refuse() returns trigger language plpgsql as $$ begin raise 'not now'; end $$;
      create trigger refuse before update on twinbox.lane for each row when (new.holder is null) execute function refuse()`,
    )
    const start = async (): Promise<Worker> => {
      const worker = createClaimer(
        { database: database.url, consumer: 'shared', leaseMs: 600_000, onEvent: events.onEvent },
        { '#': () => {} },
      )
      workers.push(worker)
      await worker.start()
      return worker
    }
    const first = await start()
    await events.next('lanes_taken', ({ workerId }) => workerId === first.id)
    const second = await start()
    await events.next('trouble', ({ workerId }) => workerId === first.id)
    await database.query('drop trigger refuse on twinbox.lane')
    const { lanes } = await events.next('lanes_taken', ({ workerId }) => workerId === second.id)
    expect(lanes.length).toBeGreaterThan(0)
    await until(async () => {
      const rows = await database.query<{ holder: number; count: number }>(
        `select holder, count(*)::int as count from twinbox.lane where consumer = 'shared' group by holder`,
      )
      return rows.length === 2 && rows.every(({ count }) => count === 36)
    })
  })
})
