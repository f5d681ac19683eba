import { inspect } from 'node:util'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Broker, OnBatch } from '../src/brokers/broker.ts'
import {
  BrokerError,
  createClaimer,
  createOutbox,
  createReceiver,
  createRelay,
  DeadLetterError,
  logEvents,
  OptionError,
  readDeadLetters,
  type FailedMessage,
  type RedactError,
  type Worker,
} from '../src/index.ts'
import { redaction } from '../src/base/redaction.ts'
import { openTelemetry } from '../src/observe/opentelemetry.ts'
import { recordEvents, type Recorder } from './support/events.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'

/** What an error quotes is stored, logged and traced nowhere if the application says what is told instead. */

const canary = 'canary-jane@example.org'

/** An error that says it wherever it can. */
const quoting = (): Error => {
  const cause = Object.assign(new Error(canary), { code: canary })
  const error = Object.assign(new RangeError(`${canary}\n    at ${canary}`, { cause }), { detail: canary })
  error.stack += `\n    at ${canary}`
  return error
}

let database: TestDatabase
let events: Recorder
const workers: Worker[] = []
const lines: string[] = []
const exporter = new InMemorySpanExporter()
const telemetry = openTelemetry({
  tracerProvider: new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }),
})

beforeEach(async () => {
  database = await createTestDatabase()
  events = recordEvents()
  lines.length = 0
  exporter.reset()
})
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop()))
  await database.drop()
})

const log = logEvents(
  Object.fromEntries(
    ['debug', 'info', 'warn', 'error'].map((level) => [
      level,
      (...line: unknown[]) => void lines.push(inspect(line, { depth: 12 })),
    ]),
  ) as never,
  { stacks: true },
)
const shared = (redactError: RedactError) => ({
  ...{ database: database.url, telemetry, redactError, pollMs: 2 },
  onEvent: (event: Parameters<typeof events.onEvent>[0]) => {
    events.onEvent(event)
    log(event)
  },
})
async function start(worker: Worker): Promise<void> {
  workers.push(worker)
  await worker.start()
}

/** All that is stored of errors, and all that was told of them. */
async function everything(): Promise<string> {
  const tables = await database.query<{ name: string }>(
    `select relname as name from pg_class where relnamespace = 'twinbox'::regnamespace and relkind = 'r'`,
  )
  const rows: unknown[] = []
  for (const { name } of tables) rows.push(await database.query(`select t::text from twinbox.${name} as t`))
  const spans = exporter
    .getFinishedSpans()
    .map(({ name, attributes, status, events: of }) => ({ name, attributes, status, of }))
  return [...rows, events.all, lines, spans]
    .map((each) => inspect(each, { depth: 12, showHidden: true }))
    .join('\n')
}

const put = (keys: readonly (string | null)[], topic = 't'): Promise<unknown> =>
  database.query(
    `insert into twinbox.inbox (consumer, lane, id, topic, key, payload)
    select 'c', coalesce(twinbox.lane_of(k), 64), gen_random_uuid(), $2, k, '1' from unnest($1::text[]) as k`,
    [keys, topic],
  )

/** What the hook does, and what is told of an error then. */
const hooks: readonly (readonly [how: string, hook: RedactError, told: RegExp, fails: boolean])[] = [
  ['gives a text', () => 'withheld', /^RangeError: withheld$/, false],
  ['gives an error', () => new EvalError('another'), /^EvalError: another$/, false],
  [
    'throws',
    () => {
      throw new TypeError(canary)
    },
    /^RangeError: Its text is not told: redactError threw TypeError\.$/,
    true,
  ],
  [
    'throws what cannot be read',
    () => {
      throw Object.defineProperty(new Error(canary), 'name', {
        get() {
          throw new Error(canary)
        },
      })
    },
    /^RangeError: Its text is not told: redactError threw Error\.$/,
    true,
  ],
  [
    'is async',
    (() => Promise.reject(new Error(canary))) as never,
    /^RangeError: Its text is not told: redactError gave a promise\.$/,
    true,
  ],
  ['gives nothing', (() => undefined) as never, /: redactError gave neither text nor an error\.$/, true],
  [
    'gives a proxy',
    () => new Proxy(new Error(canary), {}),
    /: redactError gave neither text nor an error\.$/,
    true,
  ],
]

describe.each(hooks)('a hook that %s', (_, hook, told, fails) => {
  const expectRedacted = async (): Promise<void> => {
    expect((await everything()).match(new RegExp(`.{0,80}${canary}`, 'g'))).toBeNull()
    const troubles = events
      .of('trouble')
      .filter(
        ({ error }) => 'code' in (error as object) && (error as { code: string }).code === 'REDACTION_FAILED',
      )
    expect(troubles.length > 0).toBe(fails)
  }

  test('is asked by a claimer, for what is tried again, parked, a dead letter, and the pause of a topic', async () => {
    const asked: FailedMessage[] = []
    await put(['k1', null])
    await put(['p1', 'p2', 'p3', 'p4', 'p5', 'p6'], 'pausing')
    const fail = (): never => {
      throw quoting()
    }
    await start(
      createClaimer(
        {
          ...shared((error, message) => (asked.push(message), hook(error, message))),
          ...{ consumer: 'c', maxAttempts: 2, backoffMsMin: 5, backoffMsMax: 6 },
        },
        { t: fail, pausing: { transaction: false, handle: async () => fail() } },
      ),
    )
    await events.next('dead_letter', ({ topic }) => topic === 't', 2)
    await events.next('circuit_opened')
    await expectRedacted()
    const { letters } = await readDeadLetters(database.url, { topic: 't' })
    for (const { reason } of letters) expect(reason).toMatch(told)
    expect(letters.length).toBe(2)
    const [circuit] = await database.query<{ error: string }>(`select error from twinbox.circuit`)
    if (circuit !== undefined) expect(circuit.error).toMatch(told)
    expect(asked).toContainEqual({
      consumer: 'c',
      id: expect.any(String) as string,
      topic: 't',
      key: 'k1',
      attempt: 1,
    })
    expect(lines.some((line) => /RangeError|EvalError/.test(line))).toBe(true)
    expect(exporter.getFinishedSpans().some(({ status }) => told.test(status.message ?? ''))).toBe(true)
  })

  test('is asked by a relay, for what the broker refuses', async () => {
    const broker: Broker = {
      name: 'told',
      send: (batch) =>
        Promise.resolve(
          batch.map(({ topic }) => ({
            status: 'rejected',
            error: Object.assign(
              new BrokerError(topic === 'again' ? 'retry' : 'poison', canary, { cause: quoting() }),
              { name: 'RangeError' },
            ),
          })),
        ),
      subscribe: () => Promise.resolve({ stop: () => Promise.resolve() }),
      close: () => Promise.resolve(),
    }
    const asked: FailedMessage[] = []
    await start(
      createRelay({ ...shared((error, message) => (asked.push(message), hook(error, message))), broker }),
    )
    await database.transaction((client) =>
      createOutbox().publishMany(client, [
        ...['never', 'again'].flatMap((topic) =>
          ['k', null].map((key) => ({ topic, key: key === null ? null : topic, payload: 1 })),
        ),
      ]),
    )
    await events.next('message_failed', () => true, 4)
    await expectRedacted()
    const { letters } = await readDeadLetters(database.url)
    expect(letters.length).toBe(2)
    for (const { reason } of letters) expect(reason).toMatch(told)
    expect(asked).toContainEqual({
      consumer: null,
      id: expect.any(String) as string,
      topic: 'never',
      key: 'never',
      attempt: 1,
    })
  })

  test('is asked by a receiver, for what identify throws', async () => {
    let deliver: OnBatch
    const broker: Broker = {
      name: 'told',
      send: () => Promise.resolve([]),
      subscribe(_options, onBatch) {
        deliver = onBatch
        return Promise.resolve({ stop: () => Promise.resolve() })
      },
      close: () => Promise.resolve(),
    }
    await start(
      createReceiver({
        ...shared(hook),
        ...{ broker, consumer: 'c', topics: ['#'] },
        identify: () => {
          throw quoting()
        },
      }),
    )
    await deliver!([
      {
        ...{ topic: 't', key: 'k', headers: {}, contentType: 'application/json', position: null },
        ...{ body: Buffer.from('1'), redelivered: false },
      },
    ])
    await expectRedacted()
    const { letters } = await readDeadLetters(database.url)
    expect(letters.map(({ reason }) => reason.replace('identify threw: ', ''))).toEqual([
      expect.stringMatching(told) as string,
    ])
  })
})

describe('by default', () => {
  test('an error is told as it is, and what it decides is decided by it', async () => {
    await put(['k'])
    await start(
      createClaimer(
        { database: database.url, consumer: 'c', onEvent: events.onEvent },
        {
          t: () => {
            throw new DeadLetterError(canary)
          },
        },
      ),
    )
    await events.next('dead_letter')
    expect((await readDeadLetters(database.url)).letters[0]!.reason).toBe(`DeadLetterError: ${canary}`)
  })

  test('and with a hook too: a DeadLetterError buries at once, whatever is told of it', async () => {
    await put(['k'])
    await start(
      createClaimer(
        { database: database.url, consumer: 'c', onEvent: events.onEvent, redactError: () => new Error('x') },
        {
          t: () => {
            throw new DeadLetterError(canary)
          },
        },
      ),
    )
    await events.next('dead_letter', ({ attempt }) => attempt === 1)
    expect((await readDeadLetters(database.url)).letters[0]!.reason).toBe('Error: x')
  })

  test('a hook that is no function is refused before anything starts', () => {
    expect(() =>
      createClaimer({ database: database.url, consumer: 'c', redactError: 'x' as never }, {}),
    ).toThrow(OptionError)
  })
})

test('class and code that somebody has made of what was sent are not told either', () => {
  const message = { consumer: 'c', id: '1', topic: 't', key: null, attempt: 1 }
  const redact = redaction(
    () => 'x',
    () => {},
  )
  for (const error of [
    Object.assign(new Error('m'), { name: canary, code: `${canary} ${canary}` }),
    Object.assign(new Error('m'), { name: 'a b' }),
    canary,
    { canary },
    null,
  ]) {
    const told = redact(error, message)
    expect(inspect(told, { showHidden: true })).not.toContain('canary')
    expect((told as Error).message).toBe('x')
  }
  const kept = redact(Object.assign(new TypeError('m'), { code: 'ECONNREFUSED' }), message)
  expect(kept).toMatchObject({ name: 'TypeError', code: 'ECONNREFUSED', message: 'x' })
})
