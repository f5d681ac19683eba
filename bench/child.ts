import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { fail, obeyParent, say, stall } from '../proof/stage/child.ts'
import type { Ready } from '../proof/stage/crew.ts'
import type { Broker } from '../src/brokers/broker.ts'
import { postgres } from '../src/brokers/postgres/postgres.ts'
import { createClaimer } from '../src/claimer/claimer.ts'
import type { HandlerEntry } from '../src/claimer/handlers.ts'
import { describeError } from '../src/base/errors.ts'
import type { TwinboxEvent } from '../src/base/events.ts'
import { zookeeper, type ZookeeperOptions } from '../src/membership/zookeeper/zookeeper.ts'
import { createRelay } from '../src/relay/relay.ts'
import type { Worker } from '../src/membership/worker.ts'
import { now } from './figures.ts'
import { consumer, type Body } from './ledger.ts'
import { findEntrant } from './entrants/registry.ts'
import { startDistance } from './race/distance.ts'
import type { Stop, Task } from './race/entrant.ts'
import { Tally, type Sheet } from './race/tally.ts'

/** A process of a scenario: one worker, an entrant of a race, a network, or one that only burns CPU. It lives no longer than its parent. */

export type Role = 'relay' | 'claimer' | 'burner' | 'distance' | 'entrant'

export interface Job {
  readonly role: Role
  readonly database: string
  readonly options?: Record<string, unknown>
  /** How long a claimer's handler takes beside its statements. */
  readonly handleMs?: number
  /** If set, the handler takes so many messages in one transaction, and no notes. */
  readonly batchSize?: number
  /** How far away the server is behind a distance. */
  readonly roundTripMs?: number
  /** What an entrant runs. */
  readonly race?: { readonly entrant: string; readonly process: number; readonly task: Task }
}

export type Order =
  | { readonly type: 'begin'; readonly job: Job }
  /** Let the event loop stand still. */
  | { readonly type: 'stall'; readonly ms: number }
  /** Burn this share of a core from now on. */
  | { readonly type: 'burn'; readonly share: number }
  /** An entrant shall start. */
  | { readonly type: 'go' }
  /** It shall say what it has used, without ending. */
  | { readonly type: 'account'; readonly weighs: boolean }
  /** It shall stop, and say what it has done. */
  | { readonly type: 'finish' }

export type News =
  | { readonly type: 'seen'; readonly at: number; readonly event: TwinboxEvent }
  /** The handler has the message that asks for a long statement, for the first time or again. */
  | { readonly type: 'stuck'; readonly at: number; readonly id: string; readonly again: boolean }
  | { readonly type: 'progress'; readonly count: number }
  /** An entrant has started, and works; or is done already. */
  | { readonly type: 'working' }
  | {
      readonly type: 'used'
      readonly cpuMs: number
      readonly memoryBytes: number
      readonly rssBytes: number
      readonly peakBytes: number
    }
  | { readonly type: 'finished'; readonly sheet: Sheet }

/** One per message would cost more than the messages; for what happens to those there is the ledger. */
const untold: ReadonlySet<TwinboxEvent['type']> = new Set(['sent', 'received', 'claimed', 'handled'])

let share = 0
let stop = async (): Promise<void> => {}

function onEvent(event: TwinboxEvent): void {
  const at = now()
  if (untold.has(event.type)) return
  say({
    type: 'seen',
    at,
    event: 'error' in event ? { ...event, error: describeError(event.error) as never } : event,
  } satisfies News)
}

async function begin(job: Job): Promise<void> {
  const { role, database, handleMs = 0, batchSize, race } = job
  let { options = {} } = job
  if (role === 'entrant') return enter(database, race!)
  if (role === 'burner') {
    void burn()
    return say({ type: 'ready', workerId: null, url: null } satisfies Ready)
  }
  if (role === 'distance') {
    const { hostname, port } = new URL(database)
    const near = await startDistance({ host: hostname, port: Number(port || 5432) }, job.roundTripMs!)
    return say({ type: 'ready', workerId: null, url: `127.0.0.1:${near}` } satisfies Ready)
  }
  // Its own connection: what is noted here stays, whatever becomes of the worker's transactions.
  const notes = new pg.Pool({ connectionString: database, max: 1 })
  notes.on('error', () => {})
  const { preparedStatements, zookeeper: ensemble } = options as {
    preparedStatements?: boolean
    zookeeper?: ZookeeperOptions
  }
  if (ensemble !== undefined) {
    const { zookeeper: _, ...others } = options
    options = { ...others, coordination: zookeeper(ensemble) }
  }
  const broker = postgres({ database, preparedStatements })
  const worker: Worker =
    role === 'relay'
      ? createRelay({ database, broker: noting(broker, notes), onEvent, ...options })
      : createClaimer(
          { database, consumer, onEvent, ...options },
          {
            ...(batchSize === undefined ? {} : { 'bench.#': inBatches(batchSize, () => worker.id) }),
            '#': async ({ id, key, payload }, { client, attempt }) => {
              const { n, stick } = payload as Body
              const { rows } = await notes.query<{ earlier: boolean }>(
                'insert into starts (id) values ($1) returning exists (select from starts where id = $1) as earlier',
                [id],
              )
              await client.query(
                'insert into effects (id, key, n, attempt, worker) values ($1, $2, $3, $4, $5)',
                [id, key, n, attempt, worker.id],
              )
              if (stick === true) {
                const again = rows[0]!.earlier
                say({ type: 'stuck', at: now(), id, again } satisfies News)
                if (!again) await client.query('select pg_sleep(60)')
              }
              if (handleMs > 0) await sleep(handleMs)
            },
          },
        )
  stop = async () => {
    await worker.stop()
    await broker.close()
    await notes.end()
  }
  await worker.start()
  say({ type: 'ready', workerId: worker.id, url: null } satisfies Ready)
}

function inBatches(batchSize: number, workerId: () => number | null): HandlerEntry<unknown> {
  return {
    batch: true,
    batchSize,
    handle: async (messages, { client, attempt }) => {
      await client.query(
        `insert into effects (id, key, n, attempt, worker)
        select *, $4::int, $5::int from unnest($1::uuid[], $2::text[], $3::int[])`,
        [
          messages.map(({ id }) => id),
          messages.map(({ key }) => key),
          messages.map(({ payload }) => (payload as Body).n),
          attempt,
          workerId(),
        ],
      )
    },
  }
}

/** Writes down what is about to be sent: what is there twice was sent again, and dropped by the inbox. */
function noting(broker: Broker, notes: pg.Pool): Broker {
  return {
    ...broker,
    async send(batch, context) {
      await notes.query('insert into sends (id) select unnest($1::uuid[])', [batch.map(({ id }) => id)])
      return broker.send(batch, context)
    },
  }
}

let go: () => Promise<void> = async () => {}
let account: (weighs: boolean) => void = () => {}
let finish: () => Promise<void> = async () => {}

/** Stands ready to run an entrant, tells how far it is, and in the end what it has done and used. */
async function enter(url: string, { entrant: name, process: place, task }: NonNullable<Job['race']>) {
  const entrant = await findEntrant(name)
  const tally = new Tally()
  let working: Promise<Stop> | null = null
  let told = 0
  const tell = (): void => {
    if (tally.count === told) return
    told = tally.count
    say({ type: 'progress', count: told } satisfies News)
  }
  let usage = process.cpuUsage()
  go = async () => {
    usage = process.cpuUsage()
    working = entrant.work({ url, process: place }, task, tally)
    // Beside a worker that has nothing to do, this would cost more than the worker.
    if (task.messages > 0) setInterval(tell, 5).unref()
    await working
    say({ type: 'working' } satisfies News)
  }
  account = (weighs) => {
    const { user, system } = process.cpuUsage(usage)
    // Whoever is about to be seen idling would start with what this costs.
    if (weighs) gc?.()
    const { heapUsed, external, rss } = process.memoryUsage()
    const memory = { memoryBytes: heapUsed + external, rssBytes: rss, peakBytes: peakRss() ?? rss }
    say({ type: 'used', cpuMs: (user + system) / 1000, ...memory } satisfies News)
  }
  finish = async () => {
    await (
      await working
    )?.()
    say({ type: 'finished', sheet: tally.sheet } satisfies News)
    // A profile is written by a process that ends by itself.
    if (process.env['TWINBOX_BENCH_PROF'] !== undefined) setTimeout(() => process.exit(0), 500)
  }
  say({ type: 'ready', workerId: null, url: null } satisfies Ready)
}

/** The most that this process ever had; `resourceUsage` would begin with what its parent had. */
function peakRss(): number | null {
  try {
    return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024
  } catch {
    return null
  }
}

async function burn(): Promise<never> {
  for (;;) {
    stall(10 * share)
    await sleep(Math.max(1, 10 * (1 - share)))
  }
}

async function obey(order: Order): Promise<void> {
  if (order.type === 'begin') await begin(order.job)
  else if (order.type === 'stall') stall(order.ms)
  else if (order.type === 'burn') share = order.share
  else if (order.type === 'go') await go()
  else if (order.type === 'account') account(order.weighs)
  else await finish()
}

obeyParent(obey, () => process.exit(1))
// As orchestrators end a process.
process.once('SIGTERM', () => {
  stop().then(() => process.exit(0), fail)
})
