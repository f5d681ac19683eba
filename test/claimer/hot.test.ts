import { beforeEach, expect, test, vi } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { inboxSql } from '../../src/database/sql/inbox.ts'
import { RetryLaterError, type ClaimerOptions, type Message, type Worker } from '../../src/index.ts'
import {
  claimers,
  consumer,
  database,
  deliverAll,
  events,
  inbox,
  startClaimer,
  useInbox,
} from '../support/inbox.ts'

/** A key with a long backlog, and those that share its lane. */

useInbox()

/** How many of each key there are. */
let sent = new Map<string, number>()
beforeEach(() => {
  sent = new Map()
})

function deliver(keys: readonly string[]): Promise<string[]> {
  const counted = (key: string): number => {
    sent.set(key, (sent.get(key) ?? 0) + 1)
    return sent.get(key)!
  }
  return deliverAll(keys.map((key) => ({ key, n: counted(key) })))
}

const start = (
  handle: (message: Message) => Promise<void>,
  options: Partial<ClaimerOptions> = {},
): Promise<Worker> =>
  startClaimer(
    { '#': { transaction: false, handle } },
    {
      concurrency: 20,
      stopTimeoutMs: 100,
      ...options,
    },
  )

const matesOf = async (key: string, count: number): Promise<string[]> =>
  (
    await database.query<{ key: string }>(
      `select 'mate ' || n as key from generate_series(1, 20000) as n
      where twinbox.lane_of('mate ' || n) = twinbox.lane_of($1) limit $2`,
      [key, count],
    )
  ).map((row) => row.key)

const many = (key: string, count: number): string[] => Array.from({ length: count }, () => key)

test.each([
  ['one hot key', 1],
  ['three hot keys in one lane', 3],
])('%s: the other keys of the lane do not wait for it', async (_, count) => {
  const [first = '', ...others] = await matesOf('hot', 22)
  const hot = ['hot', first, others.pop()!].slice(0, count)
  let release = (): void => {}
  const gate = new Promise<void>((resolve) => (release = resolve))
  const done: string[] = []
  await deliver(hot.flatMap((key) => many(key, 3000)))
  await start(async ({ key }) => {
    if (hot.includes(key!)) await gate
    else done.push(key!)
  })
  await events.next('claimed')
  await deliver(others)
  await expect.poll(() => done.length, { timeout: 20_000 }).toBe(others.length)
  // And what comes later, of new keys and of those that have had something.
  await deliver([...others, ...others])
  await expect.poll(() => done.length, { timeout: 20_000 }).toBe(3 * others.length)
  const left = async (): Promise<number> =>
    (
      await database.query<{ count: number }>(
        'select count(*)::int as count from twinbox.inbox where consumer = $1',
        [consumer],
      )
    )[0]!.count
  await expect.poll(left).toBe(count * 3000)
  release()
})

test('a backlog that is in flight as a whole delays nobody, and costs few statements', async () => {
  const others = await matesOf('hot', 5)
  let release = (): void => {}
  const gate = new Promise<void>((resolve) => (release = resolve))
  const done: string[] = []
  const own = new Database(database.url)
  const keep = vi.spyOn(own, 'keep')
  const reads = (): number => keep.mock.calls.filter(([{ name }]) => name?.includes('.read_lanes')).length
  try {
    await deliver(many('hot', 20))
    await start(
      async ({ key }) => {
        if (key === 'hot') await gate
        else done.push(key!)
      },
      { database: own },
    )
    await expect.poll(() => events.of('claimed').flatMap(({ ids }) => ids).length).toBe(20)
    await deliver(others)
    await expect.poll(() => done.length, { timeout: 20_000 }).toBe(others.length)
    await new Promise((resolve) => setTimeout(resolve, 500))
    const before = reads()
    await new Promise((resolve) => setTimeout(resolve, 1000))
    // Every 100 ms past the key. Asleep otherwise.
    expect(reads() - before).toBeLessThan(25)
    release()
    await expect
      .poll(() => events.of('handled').flatMap(({ ids }) => ids).length, { timeout: 20_000 })
      .toBe(25)
    await new Promise((resolve) => setTimeout(resolve, 500))
    const asleep = reads()
    await new Promise((resolve) => setTimeout(resolve, 1500))
    expect(reads() - asleep).toBeLessThan(6)
  } finally {
    release()
    await claimers.shift()?.stop()
    await own.close()
  }
})

test('a death charges what was in flight, and nothing of the backlog between', async () => {
  const mates = await matesOf('hot', 6)
  await deliver([...many('hot', 3000), ...mates])
  const never = new Promise<void>(() => {})
  await start(() => never)
  const claimMates = async (): Promise<void> => {
    const ofMates = await database.query<{ id: string }>(
      `select id from twinbox.inbox where consumer = $1 and key <> 'hot'`,
      [consumer],
    )
    await expect
      .poll(() => events.of('claimed').flatMap(({ ids }) => ids), { timeout: 20_000 })
      .toEqual(expect.arrayContaining(ofMates.map(({ id }) => id)))
  }
  await claimMates()
  // What is read next writes down once more how far the lane is in flight.
  await deliver(mates.slice(0, 1))
  await claimMates()
  const inFlight = await database.query<{ id: string }>(
    `select i.id from twinbox.inbox as i join twinbox.lane as l using (consumer, lane)
    where i.consumer = $1 and (i.seq <= l.reach or i.seq = any (l.past)) order by i.id`,
    [consumer],
  )
  const claimed = events.of('claimed').flatMap(({ ids }) => ids)
  expect(inFlight.map(({ id }) => id)).toEqual(claimed.toSorted())
  expect(inFlight.length).toBeLessThan(200)
  // As whoever takes the lanes over does, and after the death of that one once more: it is said once.
  const lanes = await database.query<{ lane: number; fence: number; watermark: number }>(
    'select lane, fence::int, watermark::int from twinbox.lane where consumer = $1 and lane < 64 order by lane',
    [consumer],
  )
  for (let death = 0; death < 2; death++) {
    await inbox.keep(inboxSql('twinbox').charge, {
      consumer,
      lanes: lanes.map(({ lane }) => lane),
      fences: lanes.map(({ fence }) => fence),
      watermarks: lanes.map(({ watermark }) => watermark),
    })
    const charged = await database.query<{ id: string }>(
      'select id from twinbox.inbox where consumer = $1 and attempt = 1 order by id',
      [consumer],
    )
    expect(charged).toEqual(inFlight)
  }
})

test('what has come back, and what was committed late, is read past the hot key as well', async () => {
  const [mate = '', late = '', ...others] = await matesOf('hot', 12)
  let release = (): void => {}
  const gate = new Promise<void>((resolve) => (release = resolve))
  const done: string[] = []
  let failed = false
  await deliver([...many('hot', 500), mate])
  await start(async ({ key, payload }) => {
    if (key === 'hot') return gate
    if (key === mate && !failed) {
      failed = true
      throw new RetryLaterError({ afterMs: 600_000 })
    }
    done.push(`${key} ${(payload as { n: number }).n}`)
    return undefined
  })
  await events.next('parked')
  const slow = await inbox.pool.connect()
  await slow.query('begin')
  await slow.query(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
    values ($1, twinbox.lane_of($2), gen_random_uuid(), 'order.placed', $2, '{"n":1}')`,
    [consumer, late],
  )
  await deliver([mate])
  // A straggler is waited for for a second. Reads go on above it then.
  for (let round = 0; round < 8; round++) {
    await deliver(others)
    await expect.poll(() => done.length, { timeout: 20_000 }).toBe((round + 1) * others.length)
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  await slow.query('commit')
  slow.release()
  await expect.poll(() => done, { timeout: 20_000 }).toContain(`${late} 1`)
  await database.query('update twinbox.parked set until = clock_timestamp() where consumer = $1', [consumer])
  await expect.poll(() => done, { timeout: 20_000 }).toContain(`${mate} 2`)
  expect(done.filter((each) => each.startsWith(`${mate} `))).toEqual([`${mate} 1`, `${mate} 2`])
  release()
})

test(
  'each key keeps its order, while keys grow hot, fail, and change hands',
  { timeout: 60_000 },
  async () => {
    const mates = await matesOf('hot', 35)
    const late = mates.splice(20)
    const keys = ['hot', ...mates, ...late]
    const handled = new Map<string, number[]>()
    const tries = new Map<string, number>()
    const handle = async ({ key, payload, id }: Message): Promise<void> => {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 2))
      const attempt = (tries.get(id) ?? 0) + 1
      tries.set(id, attempt)
      if (attempt === 1 && Math.random() < 0.05) throw new Error('not yet')
      handled.set(key!, [...(handled.get(key!) ?? []), (payload as { n: number }).n])
    }
    const options = { backoffMsMin: 1, backoffMsMax: 20, maxAttempts: 50 }
    await deliver(many('hot', 300))
    await start(handle, options)
    // Each opens with an xid below those that commit before it, as a slow publisher's transaction does.
    for (let round = 0; round < 15; round++) {
      const slow = await inbox.pool.connect()
      try {
        await slow.query('begin')
        await slow.query(
          `insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
        values ($1, twinbox.lane_of($2), gen_random_uuid(), 'order.placed', $2, '{"n":1}')`,
          [consumer, late[round]],
        )
        sent.set(late[round]!, 1)
        await deliver(many('hot', 40))
        const some = mates.filter(() => Math.random() < 0.5)
        await deliver(
          some.flatMap((key) => many(key, 1 + Math.floor(Math.random() * (round % 5 === 0 ? 20 : 3)))),
        )
        await slow.query('commit')
      } finally {
        slow.release()
      }
      if (round === 7) {
        await start(handle, options)
        await claimers[0]!.stop()
      }
    }
    const left = async (): Promise<number> =>
      (
        await database.query<{ count: number }>(
          `select (select count(*) from twinbox.inbox where consumer = $1)::int
          + (select count(*) from twinbox.parked_message where consumer = $1)::int as count`,
          [consumer],
        )
      )[0]!.count
    await expect.poll(left, { timeout: 40_000 }).toBe(0)
    for (const key of keys) {
      const expected = Array.from({ length: sent.get(key) ?? 0 }, (_, n) => n + 1)
      expect([key, handled.get(key) ?? []]).toEqual([key, expected])
    }
  },
)
