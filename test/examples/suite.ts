import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../../src/brokers/broker.ts'
import { createClaimer, createOutbox, createReceiver, createRelay, type Worker } from '../../src/index.ts'
import { recordEvents } from '../support/events.ts'
import { outgoing } from '../support/messages.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { until } from '../support/until.ts'
import { Program, sqlite } from './program.ts'

/** What the Python programs for one broker need, and are called. */
export interface Side {
  readonly python: string
  /** The name of its file, as is that of the publisher. */
  readonly consumer: string
  readonly publisher: string
  readonly env: NodeJS.ProcessEnv
  /** A new one each time. The suite closes it. */
  readonly broker: () => Broker
  /** One that nobody has used, and that the broker knows if it has to. */
  readonly newTopic: () => Promise<string>
  /** A queue, or a group. */
  readonly newName: () => string
  /** How many messages may come again after a kill; null if any number may. */
  readonly repeatsPerKill: number | null
}

interface Order {
  readonly n: number
}

const keys = ['order-1', 'order-2', 'order-3', null]
const keyOf = (n: number): string | null => keys[n % keys.length]!
const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n)

/** Fails if those of a key are not in the order of their numbers. */
function inOrder(
  orders: readonly { readonly key: unknown; readonly n: number }[],
  all: readonly number[],
): void {
  for (const key of keys.filter((one) => one !== null)) {
    const places = orders.filter((order) => order.key === key).map(({ n }) => n)
    expect({ key, places }).toEqual({ key, places: all.filter((n) => keyOf(n) === key) })
  }
}

export function suite(side: Side): void {
  let database: TestDatabase
  let folder: string
  const programs: Program[] = []
  const workers: Worker[] = []
  const brokers: Broker[] = []
  beforeAll(async () => {
    database = await createTestDatabase()
    folder = await mkdtemp(join(tmpdir(), 'twinbox-python-'))
  })
  afterEach(async () => {
    await Promise.all(programs.splice(0).map((program) => program.kill()))
    await Promise.all(workers.splice(0).map((worker) => worker.stop()))
    await Promise.all(brokers.splice(0).map((broker) => broker.close()))
  })
  afterAll(() => Promise.all([database.drop(), rm(folder, { recursive: true, force: true })]))

  const start = (name: string, ...args: string[]): Program => {
    const program = new Program(side.python, [name, ...args], side.env)
    programs.push(program)
    return program
  }
  const open = (): Broker => {
    const broker = side.broker()
    brokers.push(broker)
    return broker
  }
  const startWorker = async (worker: Worker): Promise<void> => {
    workers.push(worker)
    await worker.start()
  }

  test('a consumer that is killed in the middle misses nothing, and keeps each key in order', async () => {
    const topic = await side.newTopic()
    const name = side.newName()
    const file = join(folder, 'effects.db')
    const ask = (statement: string): Promise<unknown[][]> => sqlite(side.python, file, statement)
    const run = (): Program => start(side.consumer, name, topic, file)
    const broker = open()
    await startWorker(createRelay({ database: database.url, broker }))
    const outbox = createOutbox()
    const ids: string[] = []
    const publish = (numbers: readonly number[]): Promise<void> =>
      database.transaction(async (client) => {
        for (const n of numbers) {
          const key = keyOf(n)
          const published = await outbox.publish(client, {
            ...{ topic, payload: { n } satisfies Order },
            ...(key === null ? {} : { key }),
          })
          ids.push(published.id)
        }
      })
    const told = (word: string): number[] =>
      programs
        .flatMap(({ lines }) => lines)
        .flatMap((line) =>
          line.startsWith(`${word} `) ? [(JSON.parse(line.slice(word.length)) as Order).n] : [],
        )
    const worked = (): Set<number> => new Set([...told('done'), ...told('again')])

    const first = run()
    await first.shows((lines) => lines.includes(`waiting for ${topic}`))
    await publish([0])
    await first.shows(() => worked().has(0))

    // The table refuses one message for a while. That one is given back, and in the middle of that the program dies.
    const [stuck, count] = [9, 80]
    const refuse = `create trigger refuse before insert on effects when json_extract(new.data, '$.n') = ${stuck}`
    await ask(`${refuse} begin select raise(abort, 'not today'); end`)
    await publish(upTo(count / 2).slice(1))
    await publish(upTo(count).slice(count / 2))
    // It comes again, and not behind others of its key.
    await first.shows((lines) => lines.filter((line) => /^failed, .*not today/.test(line)).length === 2)
    await first.kill()
    const before = (await ask('select data from effects')).length
    expect(before).toBeGreaterThan(0)
    expect(before).toBeLessThan(count)
    await ask('drop trigger refuse')

    // Once more, whatever it is doing by now.
    const second = run()
    await second.shows(() => worked().has(stuck))
    await second.kill()

    const third = run()
    await third.shows(() => worked().size === count)
    const rows = (await ask('select id, source, key, data from effects order by rowid')).map(
      ([id, source, key, data]) => ({ id, source, key, ...(JSON.parse(String(data)) as Order) }),
    )
    expect(rows.toSorted((a, b) => a.n - b.n)).toEqual(
      ids.map((id, n) => ({ id, source: 'twinbox', key: keyOf(n), n })),
    )
    inOrder(rows, upTo(count))
    if (side.repeatsPerKill !== null)
      expect(told('again').length).toBeLessThanOrEqual(2 * side.repeatsPerKill)

    // What the relay sends twice, since it did not hear the broker's answer, is told and not done again.
    const twice = outgoing(topic, { content: JSON.stringify({ n: count } satisfies Order) })
    for (const message of [twice, twice]) {
      expect(await broker.send([message], { signal: new AbortController().signal })).toEqual([
        { status: 'sent' },
      ])
    }
    await third.shows(() => told('again').includes(count))
    const effects = `select count(*) from effects where json_extract(data, '$.n') = ${count}`
    expect(await ask(effects)).toEqual([[1]])
    await third.stop('interrupt')
  })

  test('what is published, and published again after a kill, comes to a handler exactly once', async () => {
    const topic = await side.newTopic()
    const consumer = side.newName()
    const events = recordEvents()
    const { onEvent } = events
    await startWorker(
      createReceiver({ database: database.url, broker: open(), consumer, topics: [topic], onEvent }),
    )
    await database.query('create table handled (place serial, source text, key text, n int)')
    await startWorker(
      createClaimer<{ handled: { source: string; key: string | null; n: number } }>(
        { database: database.url, consumer },
        {
          [topic]: async ({ payload, key, headers }, { trx }) => {
            const { n } = payload as Order
            await trx.insertInto('handled').values({ source: headers['ce_source']!, key, n }).execute()
          },
        },
      ),
    )
    const line = (n: number): string => JSON.stringify({ id: `order-${n}`, key: keyOf(n), data: { n } })
    const publish = async (numbers: readonly number[]): Promise<Program> => {
      const program = start(side.publisher, topic)
      program.write(numbers.map(line))
      await program.shows(
        (lines) => lines.filter((said) => said.startsWith('sent ')).length === numbers.length,
      )
      return program
    }

    const [half, all] = [upTo(20), upTo(40)]
    const killed = await publish(half)
    await killed.kill()
    // Who does not know what has been sent publishes all of it again.
    const again = await publish(all)
    await again.stop('end of input')

    const received = (how: 'fresh' | 'duplicates'): number =>
      events.of('received').reduce((sum, event) => sum + event[how], 0)
    await until(() => received('fresh') + received('duplicates') >= half.length + all.length)
    expect({ fresh: received('fresh') }).toEqual({ fresh: all.length })
    const handled = (): Promise<{ source: string; key: string | null; n: number }[]> =>
      database.query('select source, key, n from handled order by place')
    await until(async () => (await handled()).length >= all.length)
    const rows = await handled()
    expect(rows.toSorted((a, b) => a.n - b.n)).toEqual(
      all.map((n) => ({ source: '/examples/python', key: keyOf(n), n })),
    )
    inOrder(rows, all)
    expect(await database.query('select reason from twinbox.dead_letter')).toEqual([])
  })
}
