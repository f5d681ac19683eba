import pg from 'pg'
import type { Broker } from '../../src/brokers/broker.ts'
import { kafka } from '../../src/brokers/kafka/kafka.ts'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import { rabbitmq } from '../../src/brokers/rabbitmq/rabbitmq.ts'
import { zeromq } from '../../src/brokers/zeromq/zeromq.ts'
import { createClaimer } from '../../src/claimer/claimer.ts'
import type { Handlers, TransactionContext } from '../../src/claimer/handlers.ts'
import { DeadLetterError, RetryLaterError } from '../../src/base/errors.ts'
import type { OnEvent } from '../../src/base/events.ts'
import { noFailpoint, type Failpoint } from '../../src/base/failpoint.ts'
import type { Message, NewMessage } from '../../src/message/message.ts'
import type { FailoverFunction } from '../../src/membership/failover.ts'
import { zookeeper, type ZookeeperOptions } from '../../src/membership/zookeeper/zookeeper.ts'
import { inTransaction } from '../../src/claimer/opener.ts'
import { bind } from '../../src/database/bind.ts'
import { createReceiver } from '../../src/receiver/receiver.ts'
import { createRelay } from '../../src/relay/relay.ts'
import type { Telemetry } from '../../src/base/telemetry.ts'
import type { Worker } from '../../src/membership/worker.ts'
import { libraries, loadFrom, type Opened } from '../libraries/libraries.ts'
import type { Death } from './dying.ts'

/** One worker of a crash test: in a process of its own, which may be told where to die, or beside the test. */
export interface Program {
  readonly role: 'publisher' | 'relay' | 'receiver' | 'claimer' | 'upkeep'
  readonly database: string
  readonly topic: string
  readonly broker?: BrokerSpec
  readonly consumer?: string
  readonly dieAt?: Death
  /** With `zookeeper`, what that function is given. */
  readonly options?: Record<string, unknown>
  /** How the claimer's handler is called. With `outside`, it writes its effect outside of any transaction of ours. */
  /** `other`: of another version of the application, which has no handler for the topic. */
  readonly handling?: 'one' | 'batch' | 'outside' | 'other' | 'library'
  /** With `library`: whose transactions the handler gets, and where it is installed. */
  /** With `bound`, it is bound to the claim's client, instead of opening the transaction. */
  readonly library?: { readonly name: string; readonly loader: string; readonly bound?: true }
  /** How long the claimer's handler takes. */
  readonly handleMs?: number
  /** Whether the handler ends the process for messages that ask for it. */
  readonly deadly?: boolean
  /** Whether its transaction ends with a lock on a row that belongs to the message's key, as business rows do. */
  readonly locking?: boolean
  /** Where its spans go, as OTLP over HTTP. */
  readonly otlp?: string
  /** What the publisher publishes. */
  readonly messages?: readonly NewMessage[]
}

export type BrokerSpec =
  /** A wrapper of the broker is to see each message. */
  | { readonly kind: 'postgres'; readonly wrapped?: boolean }
  | { readonly kind: 'rabbitmq'; readonly url: string; readonly exchange: string; readonly queue: string }
  | {
      readonly kind: 'kafka'
      readonly brokers: readonly string[]
      readonly group: string
      readonly client?: 'platformatic'
    }
  | { readonly kind: 'zeromq'; readonly address: string }

/** What is added to a topic that no broker has a place for. */
export const nowhere = '.nowhere'

export function makeBroker(spec: BrokerSpec, database: string): Broker {
  switch (spec.kind) {
    case 'postgres':
      return spec.wrapped === true ? { ...postgres({ database }) } : postgres({ database })
    case 'rabbitmq':
      return rabbitmq({ url: spec.url, exchange: spec.exchange, queue: () => spec.queue })
    case 'kafka':
      return kafka({
        brokers: [...spec.brokers],
        client: spec.client,
        groupId: () => spec.group,
        sessionTimeoutMs: 6000,
        topology: 'declare',
        // Kafka would create any topic that it is asked about.
        topic: ({ topic }) => (topic.endsWith(nowhere) ? '' : topic),
      })
    case 'zeromq':
      // Two words, as the topic of a stage has.
      return zeromq({ consumers: { crash: { addresses: [spec.address], topics: ['*.*'] } } })
    default:
      throw new Error('There is no such broker.')
  }
}

/** What a handler does at the first attempt; `dead` at each, until there is a row in `pardon`. */
export type Misbehaviour = 'throw' | 'reject' | 'hang' | 'block' | 'die' | 'later' | 'dead'

interface Payload {
  readonly n: number
  readonly deadly?: boolean
  readonly first?: Misbehaviour
}

async function misbehave(how: Misbehaviour): Promise<void> {
  if (how === 'throw') throw new Error('on purpose')
  // Some programs reject with what is no error.
  // oxlint-disable-next-line typescript/prefer-promise-reject-errors
  if (how === 'reject') await Promise.reject('on purpose')
  if (how === 'later') throw new RetryLaterError({ afterMs: 60_000 })
  if (how === 'dead') throw new DeadLetterError('on purpose')
  if (how === 'block') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5000)
  if (how === 'die') process.kill(process.pid, 'SIGKILL')
  if (how === 'hang' || how === 'die') await new Promise(() => {})
}

const touch =
  'insert into touched (key, times) values ($1, 1) on conflict (key) do update set times = touched.times + 1'
const effect = 'insert into effects (id, key, n, attempt, worker) values ($1, $2, $3, $4, $5)'

export interface Parts {
  readonly onEvent: OnEvent
  readonly failpoint?: Failpoint
  /** With something that a handler traces itself. */
  readonly telemetry?: (Telemetry & { readonly work: () => void }) | undefined
}

/** Functions do not travel to another process: these are known by a name. */
function chosenBy({ zookeeper: ensemble, ...options }: NonNullable<Program['options']>): object {
  const coordination =
    ensemble === undefined ? {} : { coordination: zookeeper(ensemble as unknown as ZookeeperOptions) }
  return { ...options, ...coordination, ...failoverOf(options) }
}

async function openLibrary({ name, loader }: NonNullable<Program['library']>, url: string): Promise<Opened> {
  return libraries.find((library) => library.name === name)!.open(loadFrom(loader), url)
}

function failoverOf(options: NonNullable<Program['options']>): { failover?: FailoverFunction } {
  if (options['failover'] === 'the youngest')
    return { failover: (_, living) => living.toSorted((a, b) => b.id - a.id)[0]! }
  if (options['failover'] !== 'throws') return {}
  return {
    failover: () => {
      throw new Error('on purpose')
    },
  }
}

/** The worker that a program describes. */
export function makeWorker(program: Program, broker: Broker, parts: Parts): Worker {
  const { database, topic, consumer = 'crash', role } = program
  const { onEvent, telemetry, failpoint = noFailpoint } = parts
  const options = { database, onEvent, telemetry, ...chosenBy(program.options ?? {}) }
  if (role === 'relay') return createRelay({ broker, ...options }, failpoint)
  if (role === 'receiver') return createReceiver({ broker, consumer, topics: [topic], ...options }, failpoint)
  if (program.library !== undefined) {
    const theirs = openLibrary(program.library, database)
    const handle = async ({ id, key, payload }: Message, tx: unknown, attempt: number): Promise<void> => {
      const { n } = payload as Payload
      const given = `'${id}', ${key === null ? 'null' : `'${key}'`}, ${n}, ${attempt}, ${claimer.id}`
      await (await theirs).run(tx, `insert into effects (id, key, n, attempt, worker) values (${given})`)
    }
    const bound = async (client: pg.ClientBase): Promise<unknown> =>
      bind(client, (await theirs).bound!.instance as object)
    const transaction = inTransaction(async (run: (tx: unknown) => Promise<void>) =>
      (await theirs).transaction(run),
    )
    const claimer: Worker = program.library.bound
      ? createClaimer(
          { consumer, ...options },
          { '#': async (message, { client, attempt }) => handle(message, await bound(client), attempt) },
          failpoint,
        )
      : createClaimer(
          { consumer, ...options, transaction },
          { '#': async (message, { tx, attempt }) => handle(message, tx, attempt) },
          failpoint,
        )
    return claimer
  }
  const worker: Worker = createClaimer(
    { consumer, ...options },
    handlersOf(program, telemetry, () => worker.id),
    failpoint,
  )
  return worker
}

function handlersOf(
  program: Program,
  telemetry: Parts['telemetry'],
  workerId: () => number | null,
): Handlers<unknown> {
  const handle = async (
    message: Message,
    attempt: number,
    client: Pick<pg.ClientBase, 'query'>,
  ): Promise<void> => {
    const { n, deadly, first } = message.payload as Payload
    if (deadly === true) process.kill(process.pid, 'SIGKILL')
    if (program.locking === true) await client.query(touch, [message.key ?? message.id])
    const pardoned = first === 'dead' && (await client.query('select from pardon')).rows.length > 0
    if (first !== undefined && !pardoned && (attempt === 1 || first === 'dead')) await misbehave(first)
    await client.query(effect, [message.id, message.key, n, attempt, workerId()])
    telemetry?.work()
    if (program.handleMs !== undefined) await new Promise((resolve) => setTimeout(resolve, program.handleMs))
  }
  if (program.handling === 'other') return { [`${program.topic}.other`]: () => {} }
  if (program.handling === 'batch') {
    const batch = async (
      messages: readonly Message[],
      { client, attempt }: TransactionContext<unknown>,
    ): Promise<void> => {
      for (const message of messages) await handle(message, attempt, client)
    }
    return { '#': { batch: true, handle: batch } }
  }
  if (program.handling === 'outside') {
    const outside = new pg.Pool({ connectionString: program.database, max: 1, idleTimeoutMillis: 100 })
    outside.on('error', () => {})
    return {
      '#': { transaction: false, handle: (message, { attempt }) => handle(message, attempt, outside) },
    }
  }
  return { '#': (message, { client, attempt }) => handle(message, attempt, client) }
}
