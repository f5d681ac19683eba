import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { createReader } from '../../src/dashboard/poll.ts'
import { Poller } from '../../src/dashboard/poller.ts'
import { Ring } from '../../src/dashboard/ring.ts'
import { createDashboard } from '../../src/dashboard/dashboard.ts'
import { applyRoles } from '../../src/database/roles.ts'
import { Database } from '../../src/database/database.ts'
import { limited } from '../../src/database/limited.ts'
import { doctorSql } from '../../src/database/sql/doctor.ts'
import { isMissing } from '../support/require.ts'
import { findPgBouncer, type Pooler } from '../support/servers/pgbouncer.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'

/** What the overview says of boxes of any size, and what it costs the database. */

let tables: TestDatabase
let database: Database
beforeAll(async () => {
  tables = await createTestDatabase()
  database = new Database(tables.url)
})
afterAll(async () => {
  await database.close()
  await tables.drop()
})

const fill = (consumer: string, count: number, topics = 10) =>
  tables.query(
    `insert into twinbox.inbox (consumer, id, lane, topic, key, payload)
    select $1, gen_random_uuid(), i % 64, 't.' || i % $3::int, 'k' || i, '1' from generate_series(1, $2::int) as i`,
    [consumer, count, topics],
  )

/** Runs `work` as somebody who has the role of readers and nothing else. */
async function asReader(work: (url: string) => Promise<void>): Promise<void> {
  const reader = `dashboard_reader_${process.pid}`
  await applyRoles(tables.url)
  await tables.query(`create role ${reader} login password 'secret'; grant twinbox_reader to ${reader}`)
  try {
    await work(Object.assign(new URL(tables.url), { username: reader, password: 'secret' }).toString())
  } finally {
    await tables.query(`drop owned by ${reader}; drop role ${reader}`)
  }
}

const look = () => createReader(database)()

describe('a look', () => {
  test('counts a small box exactly, and by its topics', async () => {
    await fill('small', 100)
    const box = (await look()).consumers.find(({ consumer }) => consumer === 'small')!
    expect([box.depth, box.estimated, box.topicCount]).toEqual([100, false, 10])
    expect(box.topics.map(({ depth }) => depth)).toEqual(Array<number>(10).fill(10))
  })

  test('estimates a large one, also where much has gone from between', async () => {
    await fill('large', 21_000, 3000)
    // Consumers share the sequence, so that each has its gaps.
    await tables.query("delete from twinbox.inbox where consumer = 'large' and seq % 3 = 0")
    const box = (await look()).consumers.find(({ consumer }) => consumer === 'large')!
    expect(box.estimated).toBe(true)
    expect(box.depth / 14_000).toBeGreaterThan(0.8)
    expect(box.depth / 14_000).toBeLessThan(1.2)
    expect(box.flows).toHaveLength(20)
    await tables.query("delete from twinbox.inbox where consumer = 'large'")
  })

  test('tells what came and what went since the look before', async () => {
    const consumer = 'flowing'
    const receive = (count: number) =>
      tables.query(
        `with m as (
          insert into twinbox.seen (consumer, id) select $1, gen_random_uuid() from generate_series(1, $2::int) returning id)
        insert into twinbox.inbox (consumer, id, lane, topic, payload) select $1, id, 64, 't', '1' from m`,
        [consumer, count],
      )
    const read = createReader(database)
    const find = (poll: Awaited<ReturnType<typeof read>>) =>
      poll.consumers.find((box) => box.consumer === consumer)
    await read()
    await receive(10)
    let box: ReturnType<typeof find>
    await until(async () => (box = find(await read())) !== undefined)
    await receive(30)
    await tables.query(
      'delete from twinbox.inbox where seq in (select seq from twinbox.inbox where consumer = $1 limit 20)',
      [consumer],
    )
    await until(async () => (box = find(await read()))!.depth === 20)
    expect(box!.inRate! / box!.outRate!).toBeCloseTo(30 / 20)
  })
})

describe('what it costs', () => {
  test('ten viewers are one poll, and nobody is none', async () => {
    let polls = 0
    const poller = new Poller(async () => {
      polls += 1
      return look()
    })
    await Promise.all(Array.from({ length: 10 }, () => poller.current()))
    expect(polls).toBe(1)
    const seen: number[] = []
    const releases = Array.from({ length: 10 }, () => poller.watch())
    const forget = Array.from({ length: 10 }, (_, viewer) => poller.observe(() => seen.push(viewer)))
    await until(() => seen.length === 10)
    expect(polls).toBe(2)
    for (const release of releases) release()
    for (const each of forget) each()
    expect(poller.isIdle).toBe(true)
    await poller.close()
  })

  describe.each(['directly', 'through a pooler'])('%s', (way) => {
    let pooler: Pooler | null = null
    let asked: Database
    beforeAll(async () => {
      const found = await findPgBouncer()
      if (way === 'directly' || isMissing(found)) asked = new Database(tables.url)
      else asked = new Database((pooler = await found.start(tables.url)).url)
      await asked.probe()
      // Where none is installed, what goes to the server is the same.
      if (way !== 'directly') asked.sessions = false
    })
    afterAll(async () => {
      await asked.close()
      await pooler?.stop()
    })

    test('a poll is five statements with its begin and its commit', async () => {
      const read = createReader(asked)
      await read()
      const query = vi.spyOn(pg.Client.prototype, 'query')
      const said = () =>
        query.mock.calls.flatMap(([given]) =>
          (typeof given === 'string' ? given : (given as unknown as { text: string }).text)
            .replaceAll(/--.*/g, '')
            .split(';')
            .map((text) => text.trim()),
        )
      try {
        await until(async () => {
          query.mockClear()
          await read()
          return said().some((text) => text.includes('json_build_object'))
        })
        expect(said().map((text) => /^\w+/.exec(text)![0])).toEqual([
          ...['begin', 'select', 'with', 'select', 'commit'],
        ])
      } finally {
        query.mockRestore()
      }
    })

    test.each([
      ['a poll', () => createReader(asked)()],
      ["the doctor's look at the work", () => limited(asked, 500).query(doctorSql(asked.schema).consumers)],
    ])('%s is ended by the server when it waits for a lock', async (_, looking) => {
      await tables.transaction(async (client) => {
        await client.query('lock table twinbox.outbox in access exclusive mode')
        // 57014: by the server, long before the client has had enough.
        await expect(looking()).rejects.toMatchObject({ code: '57014' })
        const { rows } = await client.query(
          `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
        )
        expect(rows).toHaveLength(0)
      })
    })
  })

  test("the doctor's looks are ended by the server, and the page says why there is none", async () => {
    const ended: string[] = []
    const of = createDashboard({ database: tables.url, authorize: () => ({ name: 'ada', access: 'read' }) })
    try {
      await tables.transaction(async (client) => {
        await client.query('lock table twinbox.circuit in access exclusive mode')
        for (const path of ['/', '/doctor'])
          ended.push(await (await of.fetch(new Request(`http://localhost${path}`))).text())
      })
    } finally {
      await of.close()
    }
    const [overview, doctor] = ended
    expect(overview).toContain(
      'The doctor could not look: error: canceling statement due to statement timeout',
    )
    // Of what was not looked at, nobody knows that it is fine.
    expect(overview).not.toContain('Whatever waits has somebody')
    expect(doctor).toContain('It could not be looked at: canceling statement due to statement timeout')
  })

  test('a database that fails is asked again, and its error is told', async () => {
    let fails = true
    const poller = new Poller(async () => {
      if (fails) throw new Error('no such host')
      return look()
    })
    expect(await poller.current()).toBeNull()
    expect(poller.outage!.why).toContain('no such host')
    fails = false
    const release = poller.watch()
    await until(() => poller.outage === null)
    expect(poller.latest).not.toBeNull()
    release()
    await poller.close()
  })
})

describe('the ring', () => {
  test('keeps an hour of each box, and of a hundred boxes', async () => {
    const ring = new Ring()
    const poll = await look()
    const at = (minutes: number) => new Date(Date.UTC(2026, 0, 1, 0, minutes))
    for (let minutes = 0; minutes <= 90; minutes++) ring.add({ ...poll, lookedAt: at(minutes) })
    ring.add({ ...poll, lookedAt: at(90) })
    expect(ring.since(0)['outbox']!.at).toHaveLength(60)
    expect(ring.since(at(85).getTime())['inbox of small']!.depth).toEqual(Array<number>(5).fill(100))
    const [box] = poll.consumers
    const many = Array.from({ length: 150 }, (_, n) => ({ ...box!, consumer: `c${n}` }))
    ring.add({ ...poll, consumers: many, lookedAt: at(91) })
    expect(Object.keys(ring.since(0)).length).toBeLessThanOrEqual(100)
  })
})

describe('the page', () => {
  const dashboard = () =>
    createDashboard({ database: tables.url, authorize: () => ({ name: 'ada', access: 'read' }) })
  const get = async (of: ReturnType<typeof dashboard>, path: string) =>
    (await of.fetch(new Request(`http://localhost${path}`))).text()

  test('says what is red, why, and what to do', async () => {
    const of = dashboard()
    await tables.query(
      `insert into twinbox.circuit (consumer, topic, reason, error, probe_at) values ('small', 't.1', 'ECONNREFUSED', 'no "<b>bank</b>"', now())`,
    )
    const page = await get(of, '/')
    expect(page).toContain('Messages wait in the inbox of &quot;small&quot;, and no claimer is running.')
    expect(page).toContain('What to do: Start one: twinbox claim --consumer small')
    expect(page).toContain('pauses t.1: ECONNREFUSED since')
    expect(page).toContain('no &quot;&lt;b&gt;bank&lt;/b&gt;&quot;')
    expect(await get(of, '/?box=small')).toContain('<code>t.3</code>')
    const series = JSON.parse(await get(of, '/chart')) as ReturnType<Ring['since']>
    expect(series['inbox of small']!.depth.at(-1)).toBe(100)
    await of.close()
  })

  test('the doctor says all that the command says', async () => {
    const of = dashboard()
    const page = await get(of, '/doctor')
    expect(page).toContain('<strong>schema</strong>')
    expect(page).toContain('<strong>grants</strong>')
    await of.close()
  })

  test('needs no more than the role of readers', async () => {
    await asReader(async (url) => {
      const of = createDashboard({ database: url, authorize: () => ({ name: 'bob', access: 'read' }) })
      for (const path of ['/', '/doctor']) {
        const page = await get(of, path)
        expect(page).toContain('</h1>')
        expect(page).not.toContain('Not done')
        expect(page).not.toContain('has not answered')
        expect(page).not.toContain('could not look')
      }
      await of.close()
    })
  })
})
