import { writeSync } from 'node:fs'
import pg from 'pg'
import type { Broker } from '../../src/brokers/broker.ts'
import { kafka } from '../../src/brokers/kafka.ts'
import { postgres } from '../../src/brokers/postgres.ts'
import { rabbitmq } from '../../src/brokers/rabbitmq.ts'
import { createClaimer } from '../../src/claimer.ts'
import type { TwinboxEvent } from '../../src/events.ts'
import type { Failpoint } from '../../src/failpoint.ts'
import { createOutbox } from '../../src/outbox.ts'
import { createReceiver } from '../../src/receiver.ts'
import { createRelay } from '../../src/relay.ts'
import type { Telemetry } from '../../src/telemetry.ts'
import type { Worker } from '../../src/worker.ts'

/** The process that a crash test kills: one worker, which may be told at which point to die. */
export interface Program {
  readonly role: 'publisher' | 'relay' | 'receiver' | 'claimer'
  readonly database: string
  readonly topic: string
  readonly broker?: BrokerSpec
  readonly consumer?: string
  readonly dieAt?: { readonly point: string; readonly hit: number; readonly signal?: 'SIGKILL' | 'SIGSTOP' }
  readonly options?: Record<string, unknown>
  /** How long the claimer's handler takes. */
  readonly handleMs?: number
  /** Whether the handler ends the process for messages that ask for it. */
  readonly deadly?: boolean
  /** Whether its transaction ends with a lock on a row that belongs to the message's key, as business rows do. */
  readonly locking?: boolean
  /** Where its spans go, as OTLP over HTTP. */
  readonly otlp?: string
  /** What the publisher publishes. */
  readonly messages?: readonly { topic: string; key?: string; payload: unknown }[]
}

export type BrokerSpec =
  | { readonly kind: 'postgres' }
  | { readonly kind: 'rabbitmq'; readonly url: string; readonly exchange: string; readonly queue: string }
  | { readonly kind: 'kafka'; readonly brokers: readonly string[]; readonly group: string }

export function makeBroker(spec: BrokerSpec, database: string): Broker {
  switch (spec.kind) {
    case 'postgres':
      return postgres({ database })
    case 'rabbitmq':
      return rabbitmq({ url: spec.url, exchange: spec.exchange, queue: () => spec.queue })
    case 'kafka':
      return kafka({ brokers: [...spec.brokers], groupId: () => spec.group, sessionTimeoutMs: 6000 })
    default:
      throw new Error('There is no such broker.')
  }
}

export type Said =
  { readonly said: 'started' } | { readonly said: 'event'; readonly event: TwinboxEvent; readonly at: number }

interface Payload {
  readonly n: number
  readonly deadly?: boolean
  readonly first?: Misbehaviour
}

/** What a handler does at the first attempt. */
export type Misbehaviour = 'throw' | 'reject' | 'hang' | 'block' | 'die'

async function misbehave(how: Misbehaviour): Promise<void> {
  if (how === 'throw') throw new Error('on purpose')
  // Some programs reject with what is no error.
  // oxlint-disable-next-line typescript/prefer-promise-reject-errors
  if (how === 'reject') await Promise.reject('on purpose')
  if (how === 'block') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5000)
  if (how === 'die') process.kill(process.pid, 'SIGKILL')
  if (how === 'hang' || how === 'die') await new Promise(() => {})
}

const touch =
  'insert into touched (key, times) values ($1, 1) on conflict (key) do update set times = touched.times + 1'
const effect = 'insert into effects (id, key, n, attempt, worker) values ($1, $2, $3, $4, $5)'

async function main(program: Program): Promise<void> {
  const say = (said: Said): void => void process.send?.(said)
  const onEvent = (event: TwinboxEvent): void =>
    say({ said: 'event', at: Date.now(), event: JSON.parse(JSON.stringify(event)) as TwinboxEvent })
  let hits = 0
  const failpoint: Failpoint = (point) => {
    if (point !== program.dieAt?.point || ++hits < program.dieAt.hit) return undefined
    // Not process.exit: nothing may be tidied up.
    process.kill(process.pid, program.dieAt.signal ?? 'SIGKILL')
    // The signal takes a moment, in which nothing may happen.
    return new Promise(() => {})
  }
  const { database, role } = program
  const options = { ...program.options, ...(await telemetryOf(program)) }
  if (role === 'publisher') return publish(program, failpoint, options)
  const broker = makeBroker(program.broker ?? { kind: 'postgres' }, database)
  const consumer = program.consumer ?? 'crash'
  let worker: Worker
  if (role === 'relay') worker = createRelay({ database, broker, onEvent, ...options }, failpoint)
  else if (role === 'receiver') {
    worker = createReceiver(
      { database, broker, consumer, topics: [program.topic], onEvent, ...options },
      failpoint,
    )
  } else {
    worker = createClaimer(
      { database, consumer, onEvent, ...options },
      {
        '#': async (message, { client, attempt }) => {
          const { n, deadly, first } = message.payload as Payload
          if (deadly === true) process.kill(process.pid, 'SIGKILL')
          if (program.locking === true) await client.query(touch, [message.key ?? message.id])
          if (attempt === 1 && first !== undefined) await misbehave(first)
          await client.query(effect, [message.id, message.key, n, attempt, worker.id])
          options.telemetry?.work()
          if (program.handleMs !== undefined)
            await new Promise((resolve) => setTimeout(resolve, program.handleMs))
        },
      },
      failpoint,
    )
  }
  process.once('SIGTERM', () => {
    void worker
      .stop()
      .then(() => broker.close())
      .then(() => process.disconnect?.())
  })
  process.once('disconnect', () => process.exit())
  process.on('unhandledRejection', (error) => {
    writeSync(2, `unhandledRejection: ${String(error)}\n`)
    process.exit(70)
  })
  await worker.start()
  say({ said: 'started' })
}

interface Traced {
  /** With something that a handler traces itself. */
  readonly telemetry?: Telemetry & { readonly work: () => void }
}

async function telemetryOf({ otlp, role }: Program): Promise<Traced> {
  if (otlp === undefined) return {}
  const { otlpExporter, startSdk } = await import('../support/otlp.ts')
  const { openTelemetry } = await import('../../src/opentelemetry.ts')
  const tracerProvider = startSdk(role, otlpExporter(otlp))
  const own = tracerProvider.getTracer('handler')
  return {
    telemetry: { ...openTelemetry({ tracerProvider }), work: () => own.startSpan('work').end() },
  }
}

async function publish(
  { database, messages = [] }: Program,
  failpoint: Failpoint,
  { telemetry }: Traced,
): Promise<void> {
  const client = new pg.Client({ connectionString: database })
  await client.connect()
  await client.query('begin')
  for (const message of messages) {
    const { id } = await createOutbox({ telemetry }).publish(client, message)
    const { n } = message.payload as { n: number }
    await client.query('insert into ledger (id, key, n) values ($1, $2, $3)', [id, message.key ?? null, n])
  }
  await failpoint('publisher.before_commit' as never)
  await client.query('commit')
  await failpoint('publisher.after_commit' as never)
  await client.end()
}

await main(JSON.parse(process.argv[2]!) as Program)
