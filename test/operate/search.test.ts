import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Database } from '../../src/database/database.ts'
import { applyRoles } from '../../src/database/roles.ts'
import { messageStates } from '../../src/database/sql/placed.ts'
import { createOutbox, readDeadLetters } from '../../src/index.ts'
import { readContent } from '../../src/operate/content.ts'
import { groupDeadLetters } from '../../src/operate/groups.ts'
import { readKeyQueue } from '../../src/operate/queue.ts'
import { findDedupeKey, searchMessages } from '../../src/operate/search.ts'
import { followMessage } from '../../src/status/follow.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

const id = (n: number): string => `0190c7e2-8a00-7000-8000-00000000000${n}`
const reader = `search_reader_${process.pid}`
const failed = (error: string, attempt = 1): string =>
  JSON.stringify([
    { attempt, at: '2026-01-01T00:00:00.000Z', worker: 7, error, class: 'TypeError', stack: null },
  ])

let target: TestDatabase
/** As the owner, and as a reader. */
let own: Database
let asReader: Database
let published: string
beforeAll(async () => {
  target = await createTestDatabase()
  own = new Database(target.url)
  const results = await target.transaction((client) =>
    createOutbox().publishMany(client, [
      { topic: 'order.placed', key: 'o1', payload: { secret: 1 }, headers: { shop: 'b' }, dedupeKey: 'd1' },
      { topic: 'order.placed', payload: { secret: 2 }, delayMs: 3_600_000, dedupeKey: 'd2' },
    ]),
  )
  published = results[0]!.id
  await target.query(`insert into twinbox.lane (consumer, lane) select 'billing', generate_series(0, 71)`)
  await target.query(`insert into twinbox.inbox (consumer, lane, id, topic, key, payload) values
    ('billing', twinbox.lane_of('o1'), '${id(1)}', 'order.paid', 'o1', '{"secret":3}'),
    ('billing', twinbox.lane_of('o3'), '${id(2)}', 'order.seen', 'o3', '{"secret":4}')`)
  await target.query(`insert into twinbox.parked (consumer, lane, key, until, reason, blocker)
    values ('billing', twinbox.lane_of('o3'), 'o3', 'infinity', 'TypeError: no', 1)`)
  for (const [seq, n] of [
    [9, 3],
    [4, 4],
  ])
    await target.query(`insert into twinbox.parked_message (consumer, lane, key, seq, id, topic, payload)
      overriding system value values ('billing', twinbox.lane_of('o3'), 'o3', ${seq! - 100}, '${id(n!)}', 'order.paid', '{"secret":6}')`)
  await target.query(
    `insert into twinbox.dead_letter (consumer, seq, id, topic, key, payload, attempt, reason, errors) values
    ('billing', 1, '${id(5)}', 'order.paid', 'o3', '{"secret":7}', 3, 'TypeError: no', $1),
    ('billing', 2, '${id(6)}', 'order.paid', 'o4', '{"secret":7}', 3, 'TypeError: yes', $1),
    ('billing', 3, '${id(7)}', 'order.paid', 'o5', '{"secret":7}', 3, 'TypeErrors are others', $1)`,
    [failed('TypeError: no', 3)],
  )
  await target.query(
    `insert into twinbox.deferred (consumer, due_at, id, topic, payload, attempt, errors)
    values ('billing', now() + interval '1 h', '${id(8)}', 'order.late', '{"secret":8}', 2, $1)`,
    [failed('RangeError: Needle')],
  )
  await target.query(`insert into twinbox.unhandled (consumer, lane, seq, id, topic, key, payload, received_at)
    values ('billing', twinbox.lane_of('o6'), 5, '${randomUUID()}', 'order.odd', 'o6', '1', now())`)
  await target.query(`insert into twinbox.handled (consumer, id, topic, key, attempt, worker)
    values ('billing', '${id(9)}', 'order.paid', 'o1', 2, 7)`)
  await target.query(
    `insert into twinbox.seen (consumer, id, seen_at) values ('billing', '${id(9)}', now() - interval '1 min')`,
  )
  await applyRoles(target.url)
  await target.query(`create role ${reader} login password 'secret'; grant twinbox_reader to ${reader}`)
  asReader = new Database(
    Object.assign(new URL(target.url), { username: reader, password: 'secret' }).toString(),
  )
})
afterAll(async () => {
  await own.close()
  await asReader.close()
  await target.query(`drop owned by ${reader}; drop role ${reader}`)
  await target.drop()
})

describe('a search', () => {
  test('finds messages wherever they are, for a reader too, and says nothing of their content', async () => {
    for (const database of [own, asReader]) {
      const found = await searchMessages(database, {})
      expect(found).toMatchObject({ beyond: [], consumersLeft: 0 })
      expect(new Set(found.messages.map(({ state }) => state))).toEqual(new Set(messageStates))
      expect(JSON.stringify(found)).not.toContain('secret')
    }
  })

  test.each([
    [{ key: 'o1' }, ['outbox o1', 'inbox o1', 'handled o1']],
    [{ key: 'o3' }, ['inbox o3', 'parked o3', 'parked o3', 'dead o3']],
    [{ key: 'o3', consumer: null }, []],
    [{ topic: 'order.odd' }, ['unhandled o6']],
    [{ error: 'needle' }, ['deferred null']],
    [{ error: 'typeerror: YES' }, ['dead o4']],
    [{ error: 'a claimer with', consumer: 'billing' }, []],
    [{ error: 'no claimer' }, ['unhandled o6']],
    [{ states: ['dead'] as const, topic: 'order.placed' }, []],
  ])('by %j', async (search, wanted) => {
    const { messages } = await searchMessages(asReader, search)
    expect(messages.map(({ state, key }) => `${state} ${key}`)).toEqual(wanted)
  })

  test('says where it has not looked', async () => {
    await target.query(`insert into twinbox.dead_letter (consumer, seq, id, topic, attempt, reason)
      select 'many', n, gen_random_uuid(), 't', 1, 'x' from generate_series(1, 30) as n`)
    await target.query(`insert into twinbox.lane (consumer, lane) select 'many', generate_series(0, 71)`)
    const few = await searchMessages(own, { consumer: 'many', error: 'nothing' }, { look: 20 })
    expect(few).toEqual({ messages: [], beyond: [{ state: 'dead', lookedAt: 20 }], consumersLeft: 0 })
    expect(await searchMessages(own, { consumer: 'many', error: 'nothing' }, { look: 31 })).toMatchObject({
      beyond: [],
    })
  })

  test('gives up on a table that takes too long, and says so', async () => {
    const client = await target.pool.connect()
    try {
      await client.query('begin; lock table twinbox.deferred')
      expect((await searchMessages(own, { key: 'o1' })).beyond).toEqual([
        { state: 'deferred', lookedAt: null },
      ])
    } finally {
      await client.query('rollback')
      client.release()
    }
  })

  test('finds a dedupe key, in its topic or in all; a reader is refused', async () => {
    const ids = async (dedupeKey: string, topic?: string) =>
      (await findDedupeKey(own, { dedupeKey, topic })).messages.map((message) => message.id)
    expect(await ids('d1')).toEqual([published])
    expect(await ids('d1', 'order.placed')).toEqual([published])
    expect(await ids('d1', 'order.paid')).toEqual([])
    expect(await ids('d2')).toHaveLength(1)
    expect(await findDedupeKey(own, { dedupeKey: 'none' })).toEqual({ messages: [], more: false })
    await expect(findDedupeKey(asReader, { dedupeKey: 'd1' })).rejects.toMatchObject({ code: '42501' })
  })
})

test('a group is what a filter of dead letters names', async () => {
  const { groups, others, lookedAt, more } = await groupDeadLetters(asReader, { consumer: 'billing' })
  expect({ others, lookedAt, more }).toEqual({ others: 0, lookedAt: 3, more: false })
  expect(groups.map(({ topic, errorClass, count, reason }) => [topic, errorClass, count, reason])).toEqual([
    ['order.paid', 'TypeError', 2, 'TypeError: yes'],
    ['order.paid', 'TypeErrors are others', 1, 'TypeErrors are others'],
  ])
  for (const { consumer, topic, errorClass, count } of groups)
    expect((await readDeadLetters(own, { consumer, topic, errorClass })).letters).toHaveLength(count)
  expect(await groupDeadLetters(own, { limit: 1 })).toMatchObject({ others: 2 })
})

test('a page of dead letters ends where it may not look further, and the next one goes on', async () => {
  const first = await readDeadLetters(own, { key: 'o4' }, { lookMax: 1 })
  expect(first.letters).toEqual([])
  const rest = await readDeadLetters(own, { key: 'o4' }, { after: first.next! })
  expect(rest).toMatchObject({ letters: [{ key: 'o4' }], next: null })
})

test('the queue of a key stands in the order in which it is handled, behind what holds it back', async () => {
  const { parked, messages, more } = await readKeyQueue(asReader, { consumer: 'billing', key: 'o3' })
  expect(parked).toMatchObject({
    waiting: 2,
    until: null,
    reason: 'TypeError: no',
    letter: expect.any(Number),
  })
  expect(messages.map((message) => [message.state, message.id])).toEqual([
    ['parked', id(4)],
    ['parked', id(3)],
    ['inbox', id(2)],
  ])
  expect(more).toBe(false)
  expect(await readKeyQueue(own, { consumer: 'billing', key: 'o3' }, 1)).toMatchObject({
    messages: [{ id: id(4) }],
    more: true,
  })
  expect(await readKeyQueue(own, { consumer: null, key: 'o1' })).toMatchObject({
    parked: null,
    messages: [{ id: published }],
  })
})

describe('the way of a message', () => {
  test('is told from its publication on, in the order of time', async () => {
    const { places, steps } = await followMessage(asReader, id(5).toUpperCase())
    expect(places).toMatchObject([{ why: 'dead', consumer: 'billing' }])
    expect(steps.map(({ what, consumer }) => [what, consumer])).toEqual([
      ['published', null],
      ['failed', 'billing'],
      ['dead', 'billing'],
    ])
    expect((await followMessage(asReader, id(9))).steps).toMatchObject([
      { what: 'published' },
      { what: 'received' },
      { what: 'handled', attempt: 2, worker: 7 },
    ])
    expect(await followMessage(asReader, randomUUID())).toMatchObject({
      known: false,
      steps: [],
      standings: [],
    })
  })

  test('leads to its content wherever it is, which a reader may not see', async () => {
    const { messages } = await searchMessages(own, {})
    for (const { state, id: of } of messages.filter(({ consumer }) => consumer !== 'many')) {
      const { standings } = await followMessage(own, of)
      const content = await readContent(own, of, standings[0]!)
      expect([state, content !== null]).toEqual([state, state !== 'handled'])
      if (of === published)
        expect(content).toEqual({
          ...{ headers: { shop: 'b' }, contentType: 'application/json', payload: '{"secret":1}' },
        })
      if (state !== 'handled')
        await expect(readContent(asReader, of, standings[0]!)).rejects.toMatchObject({ code: '42501' })
    }
    const [standing] = (await followMessage(own, published)).standings
    expect(await readContent(own, id(1), standing!)).toBeNull()
  })
})
