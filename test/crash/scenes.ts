import { connect } from 'amqplib'
import { Kafka, logLevel } from 'kafkajs'
import { expect } from 'vitest'
import { Dealer } from 'zeromq'
import {
  createSchedules,
  prune,
  redriveDeadLetters,
  redriveParkedKeys,
  skipDeadLetters,
} from '../../src/index.ts'
import { toTickId } from '../../src/message/message.ts'
import type { PruneKind } from '../../src/database/sql/upkeep.ts'
import type { Cell, Given } from './cells.ts'
import type { Actor, Stage } from './stage.ts'
import { nowhere, type Program } from './worker.ts'

/** How a process comes to be in the middle of something, and what has to be done when it has died there. */
export interface Scene {
  /** The victim, and whoever goes on in its place. */
  readonly program?: Partial<Program>
  /** The victim only. */
  readonly victim?: Partial<Program>
  /** Before the victim starts. */
  before?(stage: Stage, cell: Cell): Promise<void>
  /** What it dies over; by default, a message is published. */
  over?(stage: Stage, cell: Cell, victim: Actor): Promise<void>
  /** Once there is a successor. */
  after?(stage: Stage, cell: Cell): Promise<void>
}

const soon = { backoffMsMin: 10, backoffMsMax: 20 }
const parked = 'select exists (select from twinbox.parked) as done'
const handled = 'select exists (select from effects where n = 0) as done'

/** An operator lets parked keys go on until that has come of it. */
async function hasten({ database }: Stage, query: string): Promise<void> {
  const done = async (): Promise<boolean> => (await database.query<{ done: boolean }>(query))[0]!.done
  while (!(await done())) {
    await redriveParkedKeys(database.url, { key: 'a' })
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** The dead letter that there has to be, and no other. */
async function theLetter(stage: Stage, { letter }: Cell): Promise<void> {
  await stage.until('select exists (select from twinbox.dead_letter) as done')
  expect(await stage.database.query('select attempt from twinbox.dead_letter')).toEqual([{ attempt: letter }])
}

async function giveUp(stage: Stage, cell: Cell): Promise<void> {
  await theLetter(stage, cell)
  expect((await skipDeadLetters(stage.database.url, {})).count).toBe(1)
}

/** A row that has outlived its window, and one that has not. */
const rowsOf: Record<PruneKind, string> = {
  dedupe: `dedupe (topic, dedupe_key, id, expires_at) select 'other', age::text, gen_random_uuid(), now() - age + interval '1 hour'`,
  seen: `seen (consumer, id, seen_at) select 'other', gen_random_uuid(), now() - age`,
  workers: `worker (kind, consumer, host, pid, version, application, ended_at, ended_by) select 'claimer', 'other', 'h', 1, 'v', 'a', now() - age, 'stop'`,
  handled: `handled (consumer, topic, id, attempt, handled_at) select 'other', 't', gen_random_uuid(), 1, now() - age`,
  dead: `dead_letter (consumer, topic, id, attempt, reason, payload, died_at) select 'other', 't', gen_random_uuid(), 1, 'why', '{}', now() - age`,
  audit: `audit (consumer, action, who, at) select 'other', 'skip', 'me', now() - age`,
}

function pruning(kind: PruneKind): Scene {
  const [, table] = /^(\w+)/.exec(rowsOf[kind])!
  const own = kind === 'dedupe' ? "topic = 'other'" : "consumer = 'other'"
  const olderThanMs = kind === 'dedupe' ? null : 3_600_000
  return {
    program: { options: { kind, consumer: null, olderThanMs } },
    async before({ database }) {
      await database.query(
        `insert into twinbox.${rowsOf[kind]} from unnest('{2 days,30 minutes}'::interval[]) as age`,
      )
    },
    async after({ database }) {
      await prune(database.url, kind, olderThanMs === null ? {} : { olderThanMs })
      expect(await database.query(`delete from twinbox.${table} where ${own} returning 1`)).toHaveLength(1)
    },
  }
}

const retried = (first: 'throw' | 'later' | 'dead', options: Program['options'] = soon): Scene => ({
  program: { options },
  over: (stage, { key }) => stage.publish([key], first),
})

const refused = (backoff: object): Scene => ({
  program: { options: { maxAttempts: 2, ...backoff } },
  over: (stage, { key }) => stage.publishVain({ topic: stage.topic + nowhere, key }),
  after: giveUp,
})

/** Of the message that a publisher of its own publishes. */
export const publishersN = 1000

const published = (more: object): Scene => ({
  program: { messages: [{ topic: '', key: 'p', payload: { n: publishersN }, ...more }] },
  over: async () => {},
})

const scenes: Record<Exclude<Given, `pruned ${string}`>, Scene> = {
  plain: {},
  sent: { program: { broker: { kind: 'postgres', wrapped: true } } },
  // Until it has got there: without a key, each half of the lanes has to have moved one before.
  again: {
    async over(stage, { key }, victim) {
      let ended = false
      void victim.ended.then(() => (ended = true))
      while (!ended) {
        await stage.publish([key])
        await new Promise((resolve) => setTimeout(resolve, 50))
      }
    },
  },
  unknown: { victim: { handling: 'other' } },
  aside: {
    async before(stage, { key }) {
      const other = stage.start({ role: 'claimer', handling: 'other' })
      await other.started
      await stage.publish([key])
      await stage.until('select exists (select from twinbox.unhandled) as done')
      expect(await other.end()).toBe(0)
    },
    over: async () => {},
  },
  // With nothing in flight.
  idle: {
    async over(stage, { key }, victim) {
      await victim.ended
      await stage.publish([key])
    },
  },
  published: published({}),
  outside: { program: { handling: 'outside' } },
  batch: {
    program: { handling: 'batch' },
    async before(stage, { key }) {
      await stage.publish([key, key])
      await stage.until('select count(*) = 2 as done from twinbox.inbox')
    },
    over: async () => {},
  },
  kept: {
    program: { options: { keepHandledMs: 3_600_000 } },
    async after(stage) {
      await stage.until(handled)
      expect(
        await stage.database.query(
          'select from twinbox.handled where id = (select id from ledger where n = 0)',
        ),
      ).toHaveLength(1)
    },
  },
  throws: retried('throw'),
  // Too long for a message without a key to stay in flight.
  'throws and waits': retried('throw', { backoffMsMin: 1100, backoffMsMax: 1200 }),
  later: { ...retried('later'), after: (stage) => hasten(stage, handled) },
  followed: {
    async over(stage) {
      await stage.publish(['a'], 'later')
      await stage.until(parked)
      await stage.publish(['a'])
    },
    after: (stage) => hasten(stage, handled),
  },
  released: {
    async over(stage) {
      await stage.publish(['a'], 'later')
      await stage.until(parked)
      await redriveParkedKeys(stage.database.url, { key: 'a' })
    },
  },
  dead: {
    ...retried('dead'),
    async after(stage, cell) {
      await theLetter(stage, cell)
      await stage.database.query('insert into pardon default values')
      expect((await redriveDeadLetters(stage.database.url, { consumer: 'crash' })).count).toBe(1)
    },
  },
  refused: refused(soon),
  'refused and followed': {
    ...refused({ backoffMsMin: 60_000, backoffMsMax: 60_000 }),
    async over(stage, { key }) {
      await stage.publishVain({ topic: stage.topic + nowhere, key })
      await stage.until(parked)
      await stage.publish(['a'])
    },
    async after(stage, cell) {
      await hasten(stage, 'select exists (select from twinbox.dead_letter) as done')
      await giveUp(stage, cell)
    },
  },
  delayed: { over: (stage, { key }) => stage.publish([key], undefined, { delayMs: 50 }) },
  expiring: {
    async before(stage, { key, role }) {
      // Sent in good time to those who are to find it expired in the inbox.
      const forMs = role === 'relay' ? 100 : 2000
      await stage.publishVain({ key, expiresAt: new Date(Date.now() + forMs) })
      if (role === 'claimer') await stage.until('select exists (select from twinbox.inbox) as done')
      await stage.until(`select max(expires_at) < clock_timestamp() as done
        from (select expires_at from twinbox.outbox union all select expires_at from twinbox.inbox) as e`)
    },
    over: async () => {},
    after: giveUp,
  },
  held: { victim: { handleMs: 60_000, options: { leaseMs: 3000, heartbeatMs: 300, deadAfterMs: 2000 } } },
  stopping: {
    victim: { handleMs: 60_000, options: { stopTimeoutMs: 50 } },
    async over(stage, { key, role }, victim) {
      await stage.publish([key])
      if (role === 'claimer') await victim.next('claimed')
      else await stage.until(handled)
      victim.kill('SIGTERM')
    },
  },
  inherited: {
    async before(stage, { key }) {
      const deceased = stage.start({ role: 'claimer', dieAt: { point: 'claimer.before_handle' } })
      await deceased.started
      await stage.publish([key])
      expect(await deceased.ended).toBe('SIGKILL')
    },
    over: async () => {},
  },
  scheduled: {
    async over({ database, topic }) {
      const schedules = createSchedules({ database: database.url })
      await schedules.set({ name: 'tick', cron: '* * * * * *', topic, payload: { n: -2 } })
      await database.query('insert into pardon select next_at from twinbox.schedule')
    },
    async after(stage) {
      const { database } = stage
      await stage.until('select count(*) > 2 as done from effects where n = -2')
      const schedules = createSchedules({ database: database.url })
      await schedules.pause('tick')
      const [{ lastAt } = { lastAt: null }] = await schedules.list()
      const [first] = await database.query<{ at: Date }>('select at from pardon')
      const ticks: string[] = []
      for (let at = first!.at.getTime(); at <= lastAt!.getTime(); at += 1000)
        ticks.push(toTickId('tick', new Date(at)))
      await stage.until(`select count(*) >= ${ticks.length} as done from effects where n = -2`)
      const found = await database.query<{ id: string }>('delete from effects where n = -2 returning id')
      expect(found.map(({ id }) => id).toSorted()).toEqual(ticks.toSorted())
    },
  },
  foreign: {
    async over({ broker, topic }) {
      if (broker.kind === 'rabbitmq') {
        const connection = await connect(broker.url)
        const channel = await connection.createConfirmChannel()
        channel.publish(broker.exchange, topic, Buffer.from('not ours'))
        await channel.waitForConfirms()
        await connection.close()
      } else if (broker.kind === 'kafka') {
        const producer = new Kafka({ brokers: [...broker.brokers], logLevel: logLevel.NOTHING }).producer()
        await producer.connect()
        // What Kafka keeps has an identity by its place, but not every key can be one of ours.
        await producer.send({ topic, messages: [{ key: 'k'.repeat(300), value: 'not ours' }] })
        await producer.disconnect()
      } else if (broker.kind === 'zeromq') {
        const dealer = new Dealer({ linger: 0 })
        dealer.connect(broker.address)
        // Its id is one, and its key is none of ours.
        const headers = JSON.stringify({ ce_type: topic, ce_partitionkey: 'k'.repeat(300) })
        await dealer.send(['not ours', headers, 'not ours'])
        // Whoever takes it dies of it once. The next one is sent it again, as by any sender that has no answer.
        const answer = dealer.receive().catch(() => null)
        const again = setInterval(
          () => void dealer.send(['not ours', headers, 'not ours']).catch(() => {}),
          500,
        )
        void answer.finally(() => {
          clearInterval(again)
          dealer.close()
        })
      }
    },
    after: giveUp,
  },
  deduped: published({ dedupeKey: 'once' }),
  timed: published({ delayMs: 1 }),
}

export function sceneOf(given: Given): Scene {
  const [, kind] = /^pruned (\w+)$/.exec(given) ?? []
  return kind === undefined ? scenes[given as keyof typeof scenes] : pruning(kind as PruneKind)
}
