import fc from 'fast-check'
import pg from 'pg'
import { expect, test } from 'vitest'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import {
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  createSchedules,
  readStatus,
  withTransaction,
  type Message,
} from '../src/index.ts'
import { createTestDatabase } from './support/postgres.ts'

/**
 * What an administrator may have set for a database, in any combination: from the publisher to the handler, over a
 * worker's death, everything works as it does without. `RUNS` says how many combinations are tried.
 */
const settings: Readonly<Record<string, readonly string[]>> = {
  datestyle: ['ISO', 'SQL, DMY', 'German', 'Postgres, MDY'],
  intervalstyle: ['postgres', 'iso_8601', 'sql_standard'],
  timezone: ['UTC', 'Asia/Kolkata', 'Asia/Shanghai', 'America/St_Johns', 'Europe/Berlin'],
  default_transaction_isolation: ['read committed', 'repeatable read', 'serializable'],
  default_transaction_deferrable: ['off', 'on'],
  idle_in_transaction_session_timeout: ['0', '2s'],
  idle_session_timeout: ['0', '400ms'],
  statement_timeout: ['0', '300ms'],
  lock_timeout: ['0', '100ms'],
  search_path: ["''", 'public, pg_catalog', '"$user", nowhere'],
  bytea_output: ['hex', 'escape'],
  extra_float_digits: ['-15', '0', '3'],
  standard_conforming_strings: ['on', 'off'],
  synchronous_commit: ['on', 'off'],
  plan_cache_mode: ['auto', 'force_generic_plan', 'force_custom_plan'],
  client_min_messages: ['notice', 'error'],
}
const combinations = fc.record(
  Object.fromEntries(Object.entries(settings).map(([name, values]) => [name, fc.constantFrom(...values)])),
)
const runs = Number(process.env['RUNS'] ?? 2)

async function eventually(done: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + 40_000
  while (!(await done())) {
    if (Date.now() > deadline) throw new Error(`It never came to this: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function work(chosen: Readonly<Record<string, string>>, ownPool: boolean): Promise<void> {
  const database = await createTestDatabase()
  const name = new URL(database.url).pathname.slice(1)
  for (const [setting, value] of Object.entries(chosen)) {
    const text = setting === 'search_path' ? value : `'${value}'`
    await database.query(`alter database ${name} set ${setting} = ${text}`)
  }
  const pool = new pg.Pool({ connectionString: database.url, max: 2 })
  pool.on('error', () => {})
  const times = { heartbeatMs: 200, deadAfterMs: 2000 }
  const handled: Message[] = []
  const broker = postgres({ database: database.url })
  const relay = createRelay({ database: database.url, broker, ...times })
  const receiver = createReceiver({ database: database.url, broker, consumer: 'c', topics: ['#'], ...times })
  const input = ownPool ? pool : database.url
  const claimer = createClaimer(
    { database: input, consumer: 'c', concurrency: 2, backoffMsMin: 1, backoffMsMax: 50, ...times },
    {
      '#': async (message, { client }) => {
        await client.query('select count(*) from twinbox.migration')
        handled.push(message)
      },
    },
  )
  const workers = [receiver, relay, claimer]
  try {
    // A claimer that was killed: it holds all lanes for an hour, and only its heartbeat tells that it is no more.
    await database.query(`with dead as (
        insert into twinbox.worker (kind, consumer, host, pid, version, application)
        values ('claimer', 'c', 'gone', 1, '0', 'gone') returning id)
      insert into twinbox.lane (consumer, lane, holder, fence, lease_until)
      select 'c', lane, dead.id, 1, clock_timestamp() + interval '1 hour' from dead, generate_series(0, 63) as lane`)
    for (const worker of workers) await worker.start()
    const schedules = createSchedules({ database: database.url })
    await schedules.set({ name: 'every-second', cron: '* * * * * *', topic: 'tick', payload: 1 })
    const outbox = createOutbox()
    const bytes = Buffer.from([0, 92, 39, 128, 255])
    const expiresAt = new Date(Date.now() + 3_600_000)
    const publish = (): Promise<unknown> =>
      withTransaction(pool, (client) =>
        outbox.publishMany(client, [
          { topic: 'plain', payload: { text: "it's \\ \u00e4" }, expiresAt, dedupeKey: '1' },
          { topic: 'keyed', key: "k'\\1", payload: bytes },
        ]),
      ).catch((error: unknown) => {
        // What the administrator wants to end is ended.
        if ((error as { code?: string }).code !== '57014') throw error
        return publish()
      })
    await publish()
    const of = (topic: string): Message | undefined => handled.find((message) => message.topic === topic)
    await eventually(
      () => ['plain', 'keyed', 'tick'].every((topic) => of(topic) !== undefined),
      'all is handled',
    )
    const near = (date: Date | null | undefined, to: number): boolean =>
      date instanceof Date && Math.abs(date.getTime() - to) < 300_000
    const [plain, keyed, tick] = [of('plain')!, of('keyed')!, of('tick')!]
    expect(plain.payload).toEqual({ text: "it's \\ \u00e4" })
    expect(plain.expiresAt).toEqual(expiresAt)
    expect([keyed.key, Buffer.from(keyed.payload as Uint8Array)]).toEqual(["k'\\1", bytes])
    const [schedule] = await schedules.list()
    const dates = [plain.publishedAt, plain.receivedAt, tick.publishedAt, schedule!.nextAt, schedule!.lastAt]
    expect(dates.map((date) => near(date, Date.now()))).toEqual([true, true, true, true, true])
    await schedules.remove('every-second')
    await eventually(async () => {
      const { outbox: box, consumers } = await readStatus(database.url)
      return box.depth === 0 && consumers.every(({ depth }) => depth === 0)
    }, 'nothing waits')
    const { workers: known, consumers } = await readStatus(database.url)
    expect(known.find(({ host }) => host === 'gone')).toMatchObject({ endedBy: 'heartbeat' })
    expect(known.every(({ startedAt }) => near(startedAt, Date.now()))).toBe(true)
    expect(consumers.map(({ deadLetters }) => deadLetters.count)).toEqual([0])
  } finally {
    await Promise.all(workers.map((worker) => worker.stop()))
    await broker.close()
    await pool.end()
    await database.drop()
  }
}

test(
  'whatever is set for the database, messages are published, handled, taken over and counted',
  async () => {
    const property = fc.asyncProperty(combinations, fc.boolean(), (chosen, ownPool) => work(chosen, ownPool))
    expect.hasAssertions()
    // A failure prints its seed, and is not made smaller: each run takes seconds.
    await fc.assert(property, { numRuns: runs, endOnFailure: true })
  },
  60_000 * runs,
)

test('a database that is set to be read-only is refused, in words', async () => {
  const database = await createTestDatabase()
  const name = new URL(database.url).pathname.slice(1)
  await database.query(`alter database ${name} set default_transaction_read_only = on`)
  const worker = createClaimer({ database: database.url, consumer: 'c' }, { t: () => {} })
  await expect(worker.start()).rejects.toThrow('default_transaction_read_only is on')
  await database.drop()
})
