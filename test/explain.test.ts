import { randomUUID } from 'node:crypto'
import { hostname, tmpdir } from 'node:os'
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Broker, SendOutcome } from '../src/brokers/broker.ts'
import {
  applyRoles,
  BrokerError,
  createOutbox,
  createRelay,
  diagnose,
  explainMessage,
  redriveDeadLetters,
  RetryLaterError,
  skipDeadLetters,
  type ExplainedPlace,
  type ExplainOptions,
  type NewMessage,
  type RelayOptions,
  type Worker,
} from '../src/index.ts'
import { ms } from '../src/base/times.ts'
import { postgres as postgresBroker } from '../src/brokers/postgres/postgres.ts'
import { Command, type Output } from './support/command.ts'
import { consumer, database, deliverAll, events, inbox, startClaimer, useInbox } from './support/inbox.ts'
import { until } from './support/until.ts'

/** Why a message waits: one situation after the other, each with its exact sentence. */

useInbox()

const folder = tmpdir()
const reader = `explain_reader_${process.pid}`
let relays: Worker[] = []
let decide: () => SendOutcome | Promise<SendOutcome>
const broker: Broker = {
  name: 'told',
  send: (batch) => Promise.all(batch.map(async () => decide())),
  subscribe: async () => ({ stop: async () => {} }),
  close: async () => {},
}
beforeEach(() => {
  decide = () => ({ status: 'sent' })
})
afterEach(async () => {
  await Promise.all(relays.splice(0).map((relay) => relay.stop()))
  await database.query(`delete from twinbox.outbox; delete from twinbox.deferred; delete from twinbox.parked; delete from twinbox.parked_message;
    delete from twinbox.subscription; delete from twinbox.worker;
    update twinbox.lane set holder = null, lease_until = '-infinity', reach = 0, past = null where consumer = ''`)
})

async function startRelay(options: Partial<RelayOptions> = {}): Promise<number> {
  const relay = createRelay({ database: database.url, broker, onEvent: events.onEvent, ...options })
  relays.push(relay)
  await relay.start()
  const { workerId } = await events.next('started', ({ kind }) => kind === 'relay')
  return workerId!
}

const publish = async (...messages: Partial<NewMessage>[]): Promise<string[]> =>
  (
    await database.transaction((client) =>
      createOutbox().publishMany(
        client,
        messages.map((message) => ({ topic: 'order.placed', payload: 1, ...message })) as NewMessage[],
      ),
    )
  ).map(({ id }) => id)

function makeGate() {
  let open = (): void => {}
  const opened = new Promise<void>((resolve) => (open = resolve))
  const gate = {
    reached: false,
    pass: (): Promise<void> => ((gate.reached = true), opened),
    open: () => open(),
  }
  return gate
}

interface Told {
  readonly at: Date
  readonly place: ExplainedPlace
  readonly sentence: string
  /** `12:40 UTC (in 3 min)`, as of then. */
  readonly when: (time: Date | null | undefined) => string
}

/** The only place of a message, and its sentence. */
async function explain(id: string, options: ExplainOptions = {}): Promise<Told> {
  const read = () => explainMessage(inbox, id, options)
  let { at, places } = await read()
  // On a machine that has stood still, a heartbeat is late.
  while (places[0]!.worker?.state === 'silent' && places[0]!.worker.pid === process.pid)
    ({ at, places } = await read())
  expect(places.map(({ sentence }) => sentence)).toHaveLength(1)
  const when = (time: Date | null | undefined): string => {
    const apart = time!.getTime() - at.getTime()
    return `${time!.toISOString().slice(11, 16)} UTC (${apart > 0 ? `in ${ms(apart)}` : `${ms(-apart)} ago`})`
  }
  return { at, place: places[0]!, sentence: places[0]!.sentence, when }
}

/** One value of the tables. */
const value = async <Value>(text: string, ...values: unknown[]): Promise<Value> =>
  (await database.query<{ value: Value }>(`select ${text} as value`, values))[0]!.value

const ofRow = (column: string, table: string, id: string): Promise<Date> =>
  value(`(select ${column} from twinbox.${table} where id = $1)`, id)

/** A living worker of this process, by what the row says of it. */
const livingAs = (id: number, { place }: Told): string =>
  `worker ${id} on host ${hostname()} (process ${process.pid}), alive ${ms(place.worker!.lastBeatMs!)} ago`

/** A heartbeat that stays fresh for as long as a test may take. */
const alive = '-10 minutes'

/** A worker that exists in the tables alone: its heartbeat stands still. */
const stageWorker = (
  kind: string,
  silence = '1 minute',
  of = consumer,
  more: Record<string, unknown> = {},
): Promise<number> =>
  value(`(select id from twinbox_stage($1, $2, $3::interval, $4::jsonb) as id)`, kind, of, silence, more)

const stage = `create or replace function twinbox_stage(kind text, consumer text, silence interval, more jsonb) returns int language sql as $$
  insert into twinbox.worker (kind, consumer, host, pid, version, application, beat_at, ended_at, ended_by, topics)
  values (kind, consumer, 'far', 7, '1', 'elsewhere', now() - silence, (more->>'ended_at')::timestamptz, more->>'ended_by', '{#}') returning id $$`
beforeAll(async () => {
  await database.query(stage)
})

const hold = (
  of: string,
  key: string | null,
  holder: number,
  lease = '10 seconds',
  lane = 5,
): Promise<unknown> =>
  database.query(
    `insert into twinbox.lane (consumer, lane, holder, since, lease_until) select $1, coalesce(twinbox.lane_of($2), $5), $3, now(), now() + $4::interval
    on conflict (consumer, lane) do update set holder = excluded.holder, since = excluded.since, lease_until = excluded.lease_until`,
    [of, key, holder, lease, lane],
  )

const laneOf = (key: string): Promise<number> => value('twinbox.lane_of($1)', key)

test('1. nobody relays', async () => {
  const [id] = await publish({ key: 'a' })
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Waits in the outbox since ${told.when(await ofRow('published_at', 'outbox', id!))}: no relay is running; start one with "twinbox relay".`,
  )
  expect(told.place).toMatchObject({
    why: 'no_worker',
    state: 'outbox',
    consumer: null,
    workers: 0,
    worker: null,
  })
})

test('2. nobody relays any more: the last one has stopped', async () => {
  const worker = await startRelay()
  await relays.pop()!.stop()
  const [id] = await publish({ key: 'a' })
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Waits in the outbox since ${told.when(await ofRow('published_at', 'outbox', id!))}: no relay is running, the last one was worker ${worker} on host ${hostname()} (process ${process.pid}), stopped at ${told.when(await value('(select ended_at from twinbox.worker)'))}; start one with "twinbox relay".`,
  )
})

test('3. a living relay has its lane, and others go first', async () => {
  const gate = makeGate()
  decide = async () => {
    await gate.pass()
    return { status: 'sent' }
  }
  const worker = await startRelay()
  const ids = await publish({ key: 'a' }, { key: 'a' }, { key: 'a' })
  await until(() => gate.reached)
  const lane = await laneOf('a')
  const [first, last] = [await explain(ids[0]!), await explain(ids[2]!)]
  expect(first.sentence).toBe(
    `Waits in the outbox since ${first.when(await ofRow('published_at', 'outbox', ids[0]!))}: the first of lane ${lane}; lane ${lane} is held by ${livingAs(worker, first)}.`,
  )
  expect(last.sentence).toBe(
    `Waits in the outbox since ${last.when(await ofRow('published_at', 'outbox', ids[2]!))}: behind ${ids[0]} and 1 other of its key "a"; lane ${lane} is held by ${livingAs(worker, last)}.`,
  )
  gate.open()
})

test('4. the broker is out of reach', async () => {
  decide = () => ({ status: 'failed', error: new BrokerError('retry', 'connect ECONNREFUSED 127.0.0.1:1') })
  const worker = await startRelay()
  const [id] = await publish({ key: 'a' })
  await events.next('broker_down')
  await until(async () => (await value('(select broker_down_since from twinbox.worker)')) !== null)
  const told = await explain(id!)
  const lane = await laneOf('a')
  expect(told.sentence).toBe(
    `Waits in the outbox since ${told.when(await ofRow('published_at', 'outbox', id!))}: the broker is out of reach since ${told.when(await value('(select broker_down_since from twinbox.worker)'))} (BrokerError: connect ECONNREFUSED 127.0.0.1:1); lane ${lane} is held by ${livingAs(worker, told)}.`,
  )
  const found = (await diagnose(inbox)).filter(({ check }) => check === 'broker')
  expect(found.map((finding) => finding.found)).toEqual([
    expect.stringMatching(
      `^The broker of relay ${worker} \\(process ${process.pid} on .*\\) is out of reach for .*: BrokerError: connect ECONNREFUSED 127\\.0\\.0\\.1:1$`,
    ),
  ])
  decide = () => ({ status: 'sent' })
  await until(async () => (await value('(select broker_down_since from twinbox.worker)')) === null)
})

test('5. a relay that is dead has its lane, and nobody has taken over', async () => {
  const worker = await stageWorker('relay', '1 minute', '')
  await stageWorker('relay', alive, '')
  await hold('', 'a', worker)
  const [id] = await publish({ key: 'a' })
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Waits in the outbox since ${told.when(await ofRow('published_at', 'outbox', id!))}; lane ${await laneOf('a')} is held by worker ${worker} on host far (process 7), silent for ${ms(told.place.worker!.lastBeatMs!)}; others may take it when they find that out, and at ${told.when(told.place.worker!.leaseUntil)} at the latest.`,
  )
})

test('6. nobody has its lane yet', async () => {
  await stageWorker('relay', alive, '')
  const [id] = await publish({ key: 'a' })
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Waits in the outbox since ${told.when(await ofRow('published_at', 'outbox', id!))}: the first of lane ${await laneOf('a')}; nobody holds it, and 1 relay is running.`,
  )
})

test('7. it was published for later, and nobody here wants it', async () => {
  await database.query(`insert into twinbox.subscription (consumer, pattern) values ('billing', 'invoice.*')`)
  const [id] = await publish({ delayMs: 180_000 })
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Is delayed until ${told.when(await ofRow('due_at', 'deferred', id!))} by whoever published it; no relay is running; no consumer here is subscribed to order.placed.`,
  )
})

test('8. it has expired', async () => {
  const [id] = await publish({ expiresAt: new Date(Date.now() + 60_000) })
  await database.query(`update twinbox.outbox set expires_at = now() - interval '1 minute'`)
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Waits in the outbox since ${told.when(await ofRow('published_at', 'outbox', id!))}, has expired at ${told.when(await ofRow('expires_at', 'outbox', id!))} and becomes a dead letter as soon as it is read: no relay is running; start one with "twinbox relay".`,
  )
})

test('9. and 10. the broker refuses it: its key is parked, and another one waits behind it', async () => {
  decide = () => ({ status: 'rejected', error: new BrokerError('config', 'no such exchange') })
  const worker = await startRelay({ backoffMsMin: 180_000, backoffMsMax: 180_000 })
  const [id] = await publish({ key: 'a' })
  await events.next('parked')
  const [next] = await publish({ key: 'a' })
  const lane = await laneOf('a')
  const [told, behind] = [await explain(id!), await explain(next!)]
  const ends = await value<Date>('(select until from twinbox.parked)')
  expect(told.sentence).toBe(
    `Failed at attempt 1 (BrokerError: no such exchange) and is tried again at ${told.when(ends)}, until when its key "a" is parked; lane ${lane} is held by ${livingAs(worker, told)}.`,
  )
  expect(behind.sentence).toBe(
    `Waits behind ${id} of its key "a", which is parked until ${behind.when(ends)} after attempt 1 (BrokerError: no such exchange); lane ${lane} is held by ${livingAs(worker, behind)}.`,
  )
})

test('11. the broker refuses it for good', async () => {
  decide = () => ({ status: 'rejected', error: new BrokerError('poison', 'too large') })
  await startRelay({ onDead: 'park' })
  const [id] = await publish({ key: 'a' })
  await events.next('dead_letter')
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Is dead letter ${told.place.letter} of the outbox since ${told.when(await ofRow('died_at', 'dead_letter', id!))}, after 1 attempt: BrokerError: too large; its key "a" is parked behind it.`,
  )
})

test('12. it was sent, or never committed: nothing is kept', async () => {
  await startRelay()
  const [id] = await publish({ key: 'a' })
  await until(async () => (await value('(select count(*)::int from twinbox.outbox)')) === 0)
  const { sentence, place } = await explain(id!)
  expect(sentence).toBe(
    'Nothing is known of it: it was not committed, or was sent and received by no consumer here, or all that was kept of it has been pruned.',
  )
  expect(place).toMatchObject({ why: 'unknown', state: null, consumer: null })
})

test('13. its transaction has not ended', async () => {
  const client = await database.pool.connect()
  try {
    await client.query(`begin; set local application_name = 'shop'`)
    const { id } = await createOutbox().publish(client, { topic: 'order.placed', payload: 1 })
    const told = await explain(id)
    const pid = await value<number>(`(select pid from pg_stat_activity where application_name = 'shop')`)
    const since = await value<Date>(`(select xact_start from pg_stat_activity where pid = $1)`, pid)
    expect(told.sentence).toBe(
      `Nothing is known of it: it was not committed, or was sent and received by no consumer here, or all that was kept of it has been pruned; transactions that write to the outbox and have not ended: process ${pid} (shop, since ${told.when(since)}).`,
    )
  } finally {
    await client.query('rollback')
    client.release()
  }
})

test('14. nobody claims', async () => {
  const [id] = await deliverAll([{ key: 'a', n: 1 }])
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${told.when(await ofRow('received_at', 'inbox', id!))}: no claimer is running; start one with "twinbox claim --consumer ${consumer}".`,
  )
})

test('15. and 16. nobody has a handler for it, and then somebody has', async () => {
  await startClaimer({ 'order.paid': () => {} })
  const [id] = await deliverAll([{ key: null, n: 1 }])
  await until(
    async () =>
      (await value('(select count(*)::int from twinbox.unhandled where consumer = $1)', consumer)) === 1,
  )
  const told = await explain(id!)
  const since = told.when(await ofRow('received_at', 'unhandled', id!))
  expect(told.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${since}: the only living claimer has no handler for order.placed.`,
  )
  const other = await stageWorker('claimer', alive)
  const again = await explain(id!)
  expect(again.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${again.when(again.place.since)}: worker ${other} on host far (process 7), alive ${ms(again.place.worker!.lastBeatMs!)} ago, has a handler for order.placed and is to take it.`,
  )
})

/** A claimer whose handler does not end until the test does. */
async function busy(stuckAfterMs = 60_000): Promise<{ worker: number; end: () => void }> {
  const gate = makeGate()
  await startClaimer({ 'order.placed': { transaction: false, handle: () => gate.pass() } }, { stuckAfterMs })
  const { workerId } = await events.next('started')
  await until(() => gate.reached)
  return { worker: workerId!, end: gate.open }
}

test('17. and 18. it is being handled, and another one of its key waits behind it', async () => {
  const [id, next] = await deliverAll([
    { key: 'a', n: 1 },
    { key: 'a', n: 2 },
  ])
  const { worker, end } = await busy()
  const lane = await laneOf('a')
  const [told, behind] = [await explain(id!), await explain(next!)]
  expect(told.sentence).toBe(
    `Is handled for "${consumer}" now, or next, by ${livingAs(worker, told)}: attempt 1.`,
  )
  expect(behind.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${behind.when(await ofRow('received_at', 'inbox', next!))}: behind ${id} of its key "a", which is in flight; lane ${lane} is held by ${livingAs(worker, behind)}.`,
  )
  end()
})

test('19. its handler does not end', async () => {
  const [id] = await deliverAll([{ key: null, n: 1 }])
  const { worker, end } = await busy(1000)
  await until(
    async () => (await value('(select stuck_since from twinbox.worker where id = $1)', worker)) !== null,
  )
  const told = await explain(id!)
  const since = await value<Date>('(select stuck_since from twinbox.worker where id = $1)', worker)
  expect(told.sentence).toBe(
    `Is handled for "${consumer}" now, or next, by ${livingAs(worker, told)}: attempt 1; a handler of order.placed has not ended there for ${ms(told.at.getTime() - since.getTime())}.`,
  )
  end()
})

test('20. and 21. a dead worker has it', async () => {
  const [id, keyed] = await deliverAll([
    { key: null, n: 1 },
    { key: 'a', n: 2 },
  ])
  const worker = await stageWorker('claimer', '1 minute', consumer, {
    ended_at: new Date().toISOString(),
    ended_by: 'lock',
  })
  await stageWorker('claimer', alive)
  await hold(consumer, 'a', worker)
  await database.query(
    `update twinbox.inbox set holder = $2, lease_until = now() + interval '10 seconds' where id = $1`,
    [id, worker],
  )
  const [told, second] = [await explain(id!), await explain(keyed!)]
  const ended = await value<Date>('(select ended_at from twinbox.worker where id = $1)', worker)
  expect(told.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${told.when(await ofRow('received_at', 'inbox', id!))}; in flight at worker ${worker} on host far (process 7), found dead at ${told.when(ended)}, since its process was gone; others may take it when they find that out, and at ${told.when(await ofRow('lease_until', 'inbox', id!))} at the latest.`,
  )
  expect(second.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${second.when(await ofRow('received_at', 'inbox', keyed!))}; lane ${await laneOf('a')} is held by worker ${worker} on host far (process 7), found dead at ${second.when(ended)}, since its process was gone; others may take it when they find that out, and at ${second.when(second.place.worker!.leaseUntil)} at the latest.`,
  )
})

test('22. its topic pauses', async () => {
  const ids = await deliverAll(['a', 'b', 'c', 'd', 'e', 'f'].map((key, n) => ({ key, n })))
  await startClaimer(
    {
      'order.placed': {
        transaction: false,
        handle: () => {
          throw Object.assign(new Error('connect ECONNREFUSED 10.0.0.1:80'), { code: 'ECONNREFUSED' })
        },
      },
    },
    { backoffMsMin: 60_000, backoffMsMax: 60_000, concurrency: 1 },
  )
  await events.next('circuit_opened')
  const { workerId } = await events.next('started')
  await until(
    async () =>
      (await value('(select count(*)::int from twinbox.circuit where consumer = $1)', consumer)) === 1,
  )
  const told = await explain(ids[5]!)
  const { since, probes, probeAt } = told.place.paused!
  expect(told.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${told.when(await ofRow('received_at', 'inbox', ids[5]!))}: "${consumer}" pauses order.placed: ECONNREFUSED since ${since.toISOString().slice(11, 16)} UTC (Error: connect ECONNREFUSED 10.0.0.1:80), ${probes} tries since; one message at a time tries, the next at ${told.when(probeAt)}; lane ${told.place.lane} is held by ${livingAs(workerId!, told)}.`,
  )
})

const failing = (options = {}): Promise<Worker> =>
  startClaimer(
    {
      'order.placed': {
        transaction: false,
        handle: () => {
          throw new TypeError('no total')
        },
      },
    },
    { backoffMsMin: 180_000, backoffMsMax: 180_000, ...options },
  )

test('23. it has no key, has failed, and is tried again later', async () => {
  const [id] = await deliverAll([{ key: null, n: 1 }])
  await failing()
  await until(
    async () =>
      (await value('(select count(*)::int from twinbox.deferred where consumer = $1)', consumer)) === 1,
  )
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Failed at attempt 1 (TypeError: no total) and is tried again at ${told.when(await ofRow('due_at', 'deferred', id!))}; 1 claimer is running.`,
  )
})

test('24. and 25. it has failed and parks its key', async () => {
  const [id, next] = await deliverAll([
    { key: 'order-17', n: 1 },
    { key: 'order-17', n: 2 },
  ])
  await failing()
  await events.next('parked')
  const { workerId } = await events.next('started')
  const lane = await laneOf('order-17')
  const [told, behind] = [await explain(id!), await explain(next!)]
  const ends = await value<Date>('(select until from twinbox.parked)')
  expect(told.sentence).toBe(
    `Failed at attempt 1 (TypeError: no total) and is tried again at ${told.when(ends)}, until when its key "order-17" is parked; lane ${lane} is held by ${livingAs(workerId!, told)}.`,
  )
  expect(behind.sentence).toBe(
    `Waits behind ${id} of its key "order-17", which is parked until ${behind.when(ends)} after attempt 1 (TypeError: no total); lane ${lane} is held by ${livingAs(workerId!, behind)}.`,
  )
})

test('26. to 29. a dead letter holds its key, is redriven, skipped', async () => {
  const [id, next] = await deliverAll([
    { key: 'order-17', n: 1 },
    { key: 'order-17', n: 2 },
  ])
  await failing({ maxAttempts: 1 })
  await events.next('dead_letter')
  const { workerId } = await events.next('started')
  const lane = await laneOf('order-17')
  const [told, behind] = [await explain(id!), await explain(next!)]
  expect(told.sentence).toBe(
    `Is dead letter ${told.place.letter} of the inbox of "${consumer}" since ${told.when(await ofRow('died_at', 'dead_letter', id!))}, after 1 attempt: TypeError: no total; its key "order-17" is parked behind it.`,
  )
  expect(behind.sentence).toBe(
    `Waits behind dead letter ${told.place.letter}, ${id} of its key "order-17", which is parked until an operator redrives or skips it after attempt 1 (TypeError: no total); lane ${lane} is held by ${livingAs(workerId!, behind)}.`,
  )
  await redriveDeadLetters(database.url, { ids: [id!] }, { by: 'ann', reason: 'fixed' })
  await events.next('dead_letter', () => true, 2)
  const again = await explain(id!)
  const audit = await value<Date>('(select at from twinbox.audit where id = $1 order by number limit 1)', id)
  expect(again.sentence).toBe(
    `Is dead letter ${again.place.letter} of the inbox of "${consumer}" since ${again.when(await ofRow('died_at', 'dead_letter', id!))}, after 1 attempt: TypeError: no total; its key "order-17" is parked behind it; redriven at ${again.when(audit)} by ann, logged in as postgres (fixed), after 1 attempt (TypeError: no total).`,
  )
  await skipDeadLetters(database.url, { ids: [id!] }, { by: 'bob' })
  const skipped = await explain(id!)
  const at = await value<Date>(
    '(select at from twinbox.audit where id = $1 order by number desc limit 1)',
    id,
  )
  expect(skipped.sentence).toBe(
    `Waits in the inbox of "${consumer}" no more; skipped at ${skipped.when(at)} by bob, logged in as postgres, after 1 attempt (TypeError: no total).`,
  )
})

test('30. it was handled, and a history is kept', async () => {
  const [id] = await deliverAll([{ key: 'a', n: 1 }])
  await startClaimer({ 'order.placed': () => {} }, { keepHandledMs: 60_000 })
  await events.next('handled')
  const { workerId } = await events.next('started')
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Was handled by "${consumer}" at ${told.when(await ofRow('handled_at', 'handled', id!))}, by worker ${workerId} on host ${hostname()} (process ${process.pid}), at attempt 1.`,
  )
})

test('31. and 32. it was handled, and no history is kept; at two consumers it is told twice', async () => {
  const id = randomUUID()
  for (const of of [consumer, `${consumer}2`])
    await database.query(`insert into twinbox.seen (consumer, id) values ($1, $2)`, [of, id])
  await database.query(
    `insert into twinbox.lane (consumer, lane) values ($1, 0), ($2, 0) on conflict do nothing`,
    [consumer, `${consumer}2`],
  )
  const { places, complete, known } = await explainMessage(database.url, id)
  expect({ complete, known, count: places.length }).toEqual({ complete: true, known: true, count: 2 })
  const told = await explain(id, { consumer })
  expect(told.sentence).toBe(
    `Was received by "${consumer}" at ${told.when(await value<Date>('(select seen_at from twinbox.seen where id = $1 and consumer = $2)', id, consumer))} and does not wait there any more: it was handled, and no history of that is kept (keepHandledMs).`,
  )
})

test('33. a handler has asked for a later time', async () => {
  const [id] = await deliverAll([{ key: null, n: 1 }])
  await startClaimer({
    'order.placed': () => {
      throw new RetryLaterError({ afterMs: 600_000, reason: 'closed' })
    },
  })
  await until(
    async () =>
      (await value('(select count(*)::int from twinbox.deferred where consumer = $1)', consumer)) === 1,
  )
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Failed at attempt 1 (RetryLaterError: closed) and is tried again at ${told.when(await ofRow('due_at', 'deferred', id!))}; 1 claimer is running.`,
  )
})

test('34. it stands below where its lane is read', async () => {
  const [id] = await publish({ key: 'a' })
  await stageWorker('relay', alive, '')
  await database.query(`update twinbox.lane set watermark = 1000000 where consumer = ''`)
  const told = await explain(id!)
  await database.query(`update twinbox.lane set watermark = 0 where consumer = ''`)
  expect(told.sentence).toBe(
    `Waits in the outbox since ${told.when(await ofRow('published_at', 'outbox', id!))}: its lane is read from behind it, since a sequence has gone back; a relay finds it when it starts, or within some minutes; 1 relay is running.`,
  )
})

test('35. over Postgres, nobody has subscribed to its topic', async () => {
  await database.query(`insert into twinbox.subscription (consumer, pattern) values ('billing', 'invoice.*')`)
  const worker = await startRelay({
    broker: postgresBroker({ database: database.url }),
    backoffMsMin: 180_000,
    backoffMsMax: 180_000,
  })
  const [id] = await publish({ key: 'a' })
  await events.next('parked')
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Failed at attempt 1 (BrokerError: No consumer has subscribed to the topic "order.placed". Start a receiver for it, or set unroutable: 'drop') and is tried again at ${told.when(await value('(select until from twinbox.parked)'))}, until when its key "a" is parked; lane ${await laneOf('a')} is held by ${livingAs(worker, told)}; no consumer here is subscribed to order.placed.`,
  )
})

test('36. whoever has it is gone, and nobody has found that out', async () => {
  const [id] = await deliverAll([{ key: null, n: 1 }])
  const worker = await stageWorker('claimer', '2 seconds')
  await database.query(`update twinbox.worker set locked_on = pg_postmaster_start_time() where id = $1`, [
    worker,
  ])
  await database.query(
    `update twinbox.inbox set holder = $2, lease_until = now() + interval '1 minute' where id = $1`,
    [id, worker],
  )
  const told = await explain(id!)
  expect(told.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${told.when(await ofRow('received_at', 'inbox', id!))}; in flight at worker ${worker} on host far (process 7), whose process is gone (last heartbeat ${ms(told.place.worker!.lastBeatMs!)} ago); others may take it when they find that out, and at ${told.when(await ofRow('lease_until', 'inbox', id!))} at the latest.`,
  )
})

test('37. it is behind others of a partition, and claimers live', async () => {
  const ids = await deliverAll([
    { key: null, n: 1 },
    { key: null, n: 2 },
  ])
  await database.query(`update twinbox.inbox set lane = 70 where id = any ($1)`, [ids])
  await stageWorker('claimer', alive)
  const told = await explain(ids[1]!)
  expect(told.sentence).toBe(
    `Waits in the inbox of "${consumer}" since ${told.when(await ofRow('received_at', 'inbox', ids[1]!))}: behind 1 earlier message of lane 70; 1 claimer is running.`,
  )
})

/** Two thousand in one lane of the outbox and of the inbox, a second apart. Returns the ids. */
async function fillLane(): Promise<string[]> {
  const start = Date.now() - 2_000_000
  const ids = Array.from(
    { length: 2000 },
    (_, n) =>
      `${(start + n * 1000)
        .toString(16)
        .padStart(12, '0')
        .replace(/^(.{8})/, '$1-')}-7000-8000-${randomUUID().slice(24)}`,
  )
  const rows = `unnest($1::uuid[]) with ordinality as m(id, n)`
  const at = `to_timestamp($2) + n * interval '1 second'`
  const values = [ids, start / 1000 - 1]
  await database.query(
    `insert into twinbox.outbox (lane, id, topic, key, payload, published_at)
    select twinbox.lane_of('a'), id, 't', 'a', '1', ${at} from ${rows} order by n`,
    values,
  )
  await database.query(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload, received_at)
    select $3, twinbox.lane_of('a'), id, 't', 'a', '1', ${at} from ${rows} order by n`,
    [...values, consumer],
  )
  await database.query(`insert into twinbox.lane (consumer, lane) values ($1, 0) on conflict do nothing`, [
    consumer,
  ])
  await database.query(`insert into twinbox.seen (consumer, id, seen_at) select $3, id, ${at} from ${rows}`, [
    ...values,
    consumer,
  ])
  return ids
}

test('deep in its lane it is found by its time, or else what was not looked at is said', async () => {
  const ids = await fillLane()
  await stageWorker('relay', alive, '')
  for (const place of [0, 499, 500, 1234, 1999]) {
    const { complete, places } = await explainMessage(database.url, ids[place]!)
    expect(places.map(({ state, ahead }) => `${place} ${state} ${ahead?.key}`)).toEqual([
      `${place} outbox ${place}`,
      `${place} inbox ${place}`,
    ])
    expect(complete).toBe(true)
  }
  // Its id and its seen row tell another time: neither finds it.
  const [strange] = await database.query<{ id: string }>(
    `update twinbox.outbox set id = gen_random_uuid() where id = $1 returning id`,
    [ids[1234]],
  )
  expect(await explainMessage(database.url, strange!.id)).toMatchObject({
    ...{ known: false, complete: false },
    places: [
      {
        why: 'unknown',
        sentence: expect.stringMatching(
          /; or it waits behind the first of each lane, and only those were looked at\.$/,
        ) as string,
      },
    ],
  })
  expect(await explainMessage(database.url, strange!.id, { all: true })).toMatchObject({
    ...{ known: true, complete: true },
    places: [{ state: 'outbox', ahead: { key: 1234 } }],
  })
})

test('a reader may ask, and nothing from outside reaches the terminal as it is', async () => {
  await applyRoles(database.url)
  const key = 'k\u001b[31m\u202e'
  const client = await database.pool.connect()
  try {
    await client.query(`insert into twinbox.lane (consumer, lane) values ('evil', 0)`)
    await client.query(
      `insert into twinbox.parked (consumer, lane, key, until, reason, blocker) values ('evil', twinbox.lane_of($1), $1, 'infinity', $2, 1)`,
      [key, 'x\u001b]0;owned\u0007\nsecond line'],
    )
    const id = randomUUID()
    await client.query(
      `insert into twinbox.parked_message (consumer, lane, key, seq, id, topic, payload) values ('evil', twinbox.lane_of($1), $1, 2, $2, 't', '"secret"')`,
      [key, id],
    )
    await client.query(`insert into twinbox.seen (consumer, id) values ('evil', $1)`, [id])
    await client.query(`create role ${reader} login password 'secret'; grant twinbox_reader to ${reader}`)
    const url = Object.assign(new URL(database.url), { username: reader, password: 'secret' }).toString()
    const { stdout, stderr, code } = await new Command(folder, ['explain', id], { TWINBOX_DATABASE_URL: url })
      .done
    expect({ stdout, stderr, code }).toEqual({
      stdout: `Waits behind an earlier message of its key "k\\u001b[31m\\u202e", which is parked until an operator redrives or skips it (x\\u001b]0;owned\\u0007); no claimer is running.\n`,
      stderr: '',
      code: 0,
    })
    // Every kind of place, and of what stands beside it.
    const [kept] = await publish({ key: 'a' })
    await startRelay()
    await until(async () => (await value('(select count(*)::int from twinbox.outbox)')) === 0)
    for (const each of [id, kept!])
      expect((await explainMessage(url, each)).places).toMatchObject(
        (await explainMessage(database.url, each)).places.map(({ why }) => ({ why })),
      )
  } finally {
    client.release()
    await database.query(`drop owned by ${reader}; drop role ${reader}`)
  }
})

test('the command says each sentence in a line, tells programs the evidence, and fails if it knows nothing', async () => {
  const [id] = await publish({ key: 'a' })
  const run = (...args: string[]): Promise<Output> =>
    new Command(folder, ['explain', ...args], { TWINBOX_DATABASE_URL: database.url }).done
  expect(await run(id!)).toMatchObject({
    code: 0,
    stderr: '',
    stdout: expect.stringMatching(
      /^Waits in the outbox since [^\n]*: no relay is running; start one with "twinbox relay"\.\n$/,
    ) as string,
  })
  const { stdout } = await run(id!, '--outbox', '--json')
  expect(JSON.parse(stdout)).toMatchObject({
    schema: 'twinbox',
    id,
    known: true,
    complete: true,
    places: [{ why: 'no_worker', state: 'outbox', topic: 'order.placed', key: 'a', workers: 0 }],
  })
  expect(await run(id!, '--consumer', 'nobody')).toMatchObject({
    code: 1,
    stdout: expect.stringMatching(/^Nothing is known of it: /) as string,
  })
  await expect(explainMessage(inbox, 'x')).rejects.toThrow('id must be the id of a message, a UUID.')
  await expect(explainMessage(inbox, id!, { only: 1 } as ExplainOptions)).rejects.toThrow('only')
})
