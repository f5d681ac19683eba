import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { createClaimer, prune } from '../src/index.ts'
import { Database } from '../src/database/database.ts'
import { receive } from '../src/database/inbox.ts'
import { pruneKinds, upkeepSql, type PruneKind } from '../src/database/sql/upkeep.ts'
import { startPruning } from '../src/upkeep/prune.ts'
import { recordEvents } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { inboxMessage } from './support/messages.ts'

let database: TestDatabase
let own: Database
beforeAll(async () => {
  database = await createTestDatabase()
  own = new Database(database.url)
})
afterEach(() =>
  database.query(
    `truncate twinbox.dedupe, twinbox.seen, twinbox.worker, twinbox.handled, twinbox.dead_letter, twinbox.audit,
      twinbox.parked, twinbox.inbox`,
  ),
)
afterAll(async () => {
  await own.close()
  await database.drop()
})

const sql = upkeepSql('twinbox')
const day = 86_400_000
const batch = async (
  kind: keyof typeof sql.prune,
  most: number,
  consumer: string | null,
  olderThanMs: number | null,
): Promise<number> => (await own.query(sql.prune[kind], { most, consumer, olderThanMs }))[0]!.count
const count = async (table: string): Promise<number> =>
  (await database.query<{ count: number }>(`select count(*)::int from twinbox.${table}`))[0]!.count

test('a tick that was missed, since the event loop stood, prints nothing', async () => {
  vi.useFakeTimers()
  const printed = [...(['log', 'info', 'warn', 'error'] as const)].map((level) => vi.spyOn(console, level))
  const pruning = startPruning(own, [], () => {})
  try {
    // Three ticks are over when the timer of the first one fires.
    vi.setSystemTime(Date.now() + 200_000)
    await vi.advanceTimersByTimeAsync(61_000)
    for (const print of printed) expect(print).not.toHaveBeenCalled()
  } finally {
    await pruning.stop()
    vi.useRealTimers()
    for (const print of printed) print.mockRestore()
  }
})

test('pruning deletes what is past its window, in batches, and nothing else', async () => {
  await database.query(`insert into twinbox.dedupe (expires_at, id, topic, dedupe_key)
    select now() - interval '1 s', gen_random_uuid(), 't', 'old' || n from generate_series(1, 12) as n
    union all select now() + interval '1 h', gen_random_uuid(), 't', 'new' || n from generate_series(1, 5) as n`)
  const counts: number[] = []
  for (let round = 0; round < 4; round++) counts.push(await batch('dedupe', 5, null, null))
  expect(counts).toEqual([5, 5, 2, 0])
  expect(await count('dedupe')).toBe(5)
})

test('ids are pruned per consumer and by its window', async () => {
  await database.query(`insert into twinbox.seen (seen_at, id, consumer)
    select now() - n * interval '1 day', gen_random_uuid(), c from generate_series(0, 9) as n, unnest('{a,b}'::text[]) as c`)
  expect(await batch('seen', 100, 'a', 4.5 * day)).toBe(5)
  expect(
    await database.query('select consumer, count(*)::int from twinbox.seen group by 1 order by 1'),
  ).toEqual([
    { consumer: 'a', count: 5 },
    { consumer: 'b', count: 10 },
  ])
})

test('of two that prune at a time, one has the turn and the other does nothing', async () => {
  await database.query(`insert into twinbox.dedupe (expires_at, id, topic, dedupe_key)
    values (now() - interval '1 s', gen_random_uuid(), 't', 'turn')`)
  await database.transaction(async (client) => {
    const { dedupe } = sql.prune
    const none = dedupe.bind({ most: 0, consumer: null, olderThanMs: null })
    expect((await client.query(dedupe.text, none)).rows).toEqual([{ count: '0', ours: true }])
    expect(await own.query(dedupe, { most: 5, consumer: null, olderThanMs: null })).toEqual([
      { count: 0, ours: false },
    ])
  })
  expect(await batch('dedupe', 5, null, null)).toBe(1)
})

test('the living and their work are never pruned, dead workers are after a day', async () => {
  await database.query(`insert into twinbox.worker (kind, consumer, host, pid, version, application, ended_at, ended_by) values
    ('relay', '', 'h', 1, '0', '', null, null), ('relay', '', 'h', 2, '0', '', now(), 'stop'),
    ('relay', '', 'h', 3, '0', '', now() - interval '2 days', 'lock')`)
  expect(await batch('workers', 10, null, day)).toBe(1)
  expect(await database.query('select pid from twinbox.worker order by pid')).toEqual([
    { pid: 1 },
    { pid: 2 },
  ])
})

const letters = (): Promise<unknown> =>
  database.query(`insert into twinbox.dead_letter (consumer, seq, id, topic, key, payload, attempt, reason, died_at)
    select c, n, gen_random_uuid(), 't', case when n = 1 then 'k' end, '1', 3, 'Error: no', now() - n * interval '1 day'
    from generate_series(1, 9) as n, unnest('{a,b}'::text[]) as c`)

test('dead letters are pruned only if told to, and never one behind which a key is held back', async () => {
  await letters()
  await database.query(`insert into twinbox.parked (consumer, lane, key, until, reason, blocker)
    values ('a', twinbox.lane_of('k'), 'k', 'infinity', 'why', 1)`)
  expect(await prune(database.url, 'dead', { olderThanMs: 0, dryRun: true })).toBe(17)
  expect(await prune(database.url, 'dead', { consumer: 'a', olderThanMs: 4.5 * day, by: 'ann' })).toBe(5)
  expect(await prune(database.url, 'dead', { olderThanMs: 0 })).toBe(12)
  expect(await database.query('select consumer, key from twinbox.dead_letter')).toEqual([
    { consumer: 'a', key: 'k' },
  ])
  expect(
    await database.query(`select action, count(*)::int from twinbox.audit where who = 'ann' group by 1`),
  ).toEqual([{ action: 'prune', count: 5 }])
})

test('a claimer keeps what it is told to, and no longer', async () => {
  const events = recordEvents()
  await database.query(`insert into twinbox.handled (consumer, id, topic, attempt, handled_at)
    select 'kept', gen_random_uuid(), 't', 1, now() - n * interval '1 day' from generate_series(1, 4) as n`)
  const claimer = createClaimer(
    { database: database.url, consumer: 'kept', keepHandledMs: 2.5 * day, onEvent: events.onEvent },
    {
      tx: () => {},
      plain: { transaction: false, handle: () => {} },
      many: { batch: true, handle: () => {} },
    },
  )
  await claimer.start()
  const id = (n: number): string => `0190c7e2-8a00-7000-8000-00000000000${n}`
  await receive(
    own,
    ['tx', 'plain', 'many', 'many'].map((topic, n) =>
      inboxMessage({
        ...{ consumer: 'kept', id: id(n), topic, key: n === 0 ? 'k' : null, payload: '{"secret":1}' },
      }),
    ),
  )
  while (events.of('handled').flatMap(({ ids }) => ids).length < 4)
    await new Promise((wake) => setTimeout(wake, 10))
  const worker = claimer.id
  await claimer.stop()
  const rows = await database.query<{ id: string }>(
    `select id, topic, key, attempt, worker, handled_at >= received_at as after from twinbox.handled
    where handled_at > now() - interval '1 hour' order by id`,
  )
  expect(rows).toEqual(
    ['tx', 'plain', 'many', 'many'].map((topic, n) => ({
      id: id(n),
      topic,
      key: n === 0 ? 'k' : null,
      attempt: 1,
      worker,
      after: true,
    })),
  )
  // Once a minute, started here by hand.
  const pruning = startPruning(own, [{ kind: 'handled', consumer: 'kept', olderThanMs: 2.5 * day }], () => {})
  await pruning.run()
  await pruning.stop()
  expect(await count('handled')).toBe(6)
  expect(await count('inbox')).toBe(0)
})

test('a handler that fails leaves no history', async () => {
  const events = recordEvents()
  await using claimer = createClaimer(
    { database: database.url, consumer: 'failing', keepHandledMs: day, onEvent: events.onEvent },
    {
      '#': () => {
        throw new Error('no')
      },
    },
  )
  await claimer.start()
  await receive(own, [inboxMessage({ consumer: 'failing' })])
  await events.next('message_failed')
  expect(await count('handled')).toBe(0)
})

describe('a run of upkeep', () => {
  test('that hangs does not keep the next one', async () => {
    await database.query(`insert into twinbox.dedupe (expires_at, id, topic, dedupe_key)
      values (now() - interval '1 s', gen_random_uuid(), 't', 'stuck')`)
    // Its first statement waits for a lock that nobody gives up.
    const holder = await database.pool.connect()
    await holder.query('begin')
    await holder.query('lock table twinbox.seen in access exclusive mode')
    const pruning = startPruning(
      own,
      [
        { kind: 'seen', consumer: 'x', olderThanMs: 0 },
        { kind: 'dedupe', consumer: null, olderThanMs: null },
      ],
      () => {},
      100,
    )
    const hanging = pruning.run()
    let ended = false
    void hanging.finally(() => (ended = true))
    const waiters = (): Promise<unknown[]> =>
      database.query(`select from pg_locks where not granted and relation = 'twinbox.seen'::regclass`)
    while ((await waiters()).length < 1) await new Promise((wake) => setTimeout(wake, 10))
    // The next ones start, and wait in their turn; the first is given up on.
    while ((await waiters()).length < 2) void pruning.run()
    expect(ended).toBe(false)
    await holder.query('rollback')
    holder.release()
    await hanging
    // Whose time was over goes no further.
    while ((await count('dedupe')) > 0) await pruning.run()
    await pruning.stop()
  })

  test('goes on with the others when one of its tasks fails, and says which', async () => {
    const events = recordEvents()
    const emit = (happening: object): void =>
      events.onEvent({ ...happening, kind: 'relay', consumer: null, workerId: 1 } as never)
    await letters()
    const pruning = startPruning(
      own,
      [
        { kind: 'handled', consumer: 'a', olderThanMs: 0 },
        { kind: 'dead', consumer: 'a', olderThanMs: 0 },
      ],
      emit,
    )
    await database.query('alter table twinbox.handled rename to gone')
    await pruning.run()
    await database.query('alter table twinbox.gone rename to handled')
    expect(events.of('trouble')).toMatchObject([{ doing: 'pruning handled' }])
    expect(await count('dead_letter')).toBe(9)
    await pruning.stop()
  })

  test('gives each of its tasks a batch in turn, so that one with much to do holds up no other', async () => {
    await database.query(`create table turns (nr bigserial, of text);
      create function note_turn() returns trigger language plpgsql as $$
        begin insert into public.turns (of) select tg_table_name from gone limit 1; return null; end $$;
      create trigger note after delete on twinbox.seen referencing old table as gone
        for each statement execute function note_turn();
      create trigger note after delete on twinbox.handled referencing old table as gone
        for each statement execute function note_turn();
      insert into twinbox.seen (seen_at, id, consumer)
        select now() - interval '1 day', gen_random_uuid(), 'c' from generate_series(1, 12000);
      insert into twinbox.handled (handled_at, id, consumer, topic, attempt)
        select now() - interval '1 day', gen_random_uuid(), 'c', 't', 1 from generate_series(1, 6000)`)
    const pruning = startPruning(
      own,
      [
        { kind: 'seen', consumer: 'c', olderThanMs: 0 },
        { kind: 'handled', consumer: 'c', olderThanMs: 0 },
      ],
      () => {},
    )
    await pruning.run()
    await pruning.stop()
    const turns = await database.query<{ of: string }>('select of from turns order by nr')
    expect(turns.map(({ of }) => of)).toEqual(['seen', 'handled', 'seen', 'handled', 'seen'])
    await database.query(
      'drop trigger note on twinbox.seen; drop trigger note on twinbox.handled; drop table turns',
    )
  })

  test('reports its trouble, and the next one goes on', async () => {
    const events = recordEvents()
    const emit = (happening: object): void =>
      events.onEvent({ ...happening, kind: 'relay', consumer: null, workerId: 1 } as never)
    const pruning = startPruning(own, [{ kind: 'workers', consumer: null, olderThanMs: 0 }], emit)
    await database.query('alter table twinbox.worker rename to gone')
    await pruning.run()
    expect(events.of('trouble')).toMatchObject([{ doing: 'pruning workers' }])
    await database.query('alter table twinbox.gone rename to worker')
    await pruning.run()
    expect(events.of('trouble')).toHaveLength(1)
    await pruning.stop()
    await pruning.run()
  })

  test('that finds nothing reads next to nothing', async () => {
    const fill: Partial<Record<PruneKind, string>> = {
      dedupe: `insert into twinbox.dedupe (expires_at, id, topic, dedupe_key)
        select now() + n * interval '1 s', gen_random_uuid(), 't', n::text from generate_series(1, 100000) as n`,
      seen: `insert into twinbox.seen (seen_at, id, consumer)
        select now() - (100000 - n) * interval '1 s', gen_random_uuid(), 'c' from generate_series(1, 100000) as n`,
      handled: `insert into twinbox.handled (handled_at, id, consumer, topic, attempt)
        select now() - (100000 - n) * interval '1 s', gen_random_uuid(), 'c', 't', 1 from generate_series(1, 100000) as n`,
    }
    for (const [kind, statement] of Object.entries(fill) as [keyof typeof sql.prune, string][]) {
      await database.query(statement)
      // Which also tells BRIN what it does not know yet.
      await database.query(`vacuum analyze twinbox.${kind}`)
      const values = kind === 'dedupe' ? [5000, null, null] : [5000, 'c', 30 * day]
      const plan = await database.query<{ 'QUERY PLAN': [{ Plan: Record<string, number> }] }>(
        `explain (analyze, buffers, timing off, format json) ${sql.prune[kind].text}`,
        values,
      )
      const { Plan: root } = plan[0]!['QUERY PLAN'][0]
      expect([kind, root['Shared Hit Blocks']! + root['Shared Read Blocks']! < 200]).toEqual([kind, true])
    }
  })
})

test('everything is pruned as well while a publication for all tables tells others of it', async () => {
  await database.query('create publication everything for all tables')
  await letters()
  await database.query(`
    insert into twinbox.dedupe (expires_at, id, topic, dedupe_key) values (now() - interval '1 s', gen_random_uuid(), 't', 'd');
    insert into twinbox.seen (seen_at, id, consumer) values (now() - interval '1 day', gen_random_uuid(), 'c');
    insert into twinbox.worker (kind, consumer, host, pid, version, application, ended_at, ended_by)
      values ('relay', '', 'h', 1, '0', '', now() - interval '1 day', 'stop');
    insert into twinbox.handled (consumer, id, topic, attempt, handled_at)
      values ('c', gen_random_uuid(), 't', 1, now() - interval '1 day');
    insert into twinbox.audit (action, who, consumer, at) values ('skip', 'ann', 'c', now() - interval '1 day')`)
  const pruned: Record<string, number> = {}
  for (const kind of pruneKinds) {
    pruned[kind] = await prune(database.url, kind, kind === 'dedupe' ? {} : { olderThanMs: 1000 })
  }
  await database.query('drop publication everything')
  expect(pruned).toEqual({ dedupe: 1, seen: 1, workers: 1, handled: 1, dead: 18, audit: 1 })
})

describe('prune', () => {
  test.each(pruneKinds)('deletes nothing of %s if it is only asked', async (kind) => {
    await letters()
    expect(
      await prune(database.url, kind, {
        dryRun: true,
        ...(kind === 'dedupe' ? {} : { olderThanMs: 5 * day }),
      }),
    ).toBe(kind === 'dead' ? 10 : 0)
    expect(await count('dead_letter')).toBe(18)
  })

  test.each([
    [undefined, {}, /kind is required/],
    ['outbox', { olderThanMs: 1 }, /kind must be one of/],
    ['dead', {}, /olderThanMs is required for dead/],
    ['dedupe', { olderThanMs: 1 }, /not for dedupe/],
    ['workers', { olderThanMs: 1, consumer: 'a' }, /consumer is not for workers/],
    ['dead', { olderThanMs: -1 }, /olderThanMs is -1/],
    ['dead', { olderThan: 1 }, /olderThan is not an option of prune/],
  ])('refuses what it cannot do, before any SQL: %s %j', async (kind, options, says) => {
    await expect(prune('postgres://127.0.0.1:1/x', kind as never, options as never)).rejects.toThrow(says)
  })
})
