import { setTimeout as sleep } from 'node:timers/promises'
import { Database } from '../../src/database/database.ts'
import { migrate } from '../../src/database/migrate.ts'
import { soakSql } from '../sql/soak.ts'
import type { TwinboxEvent } from '../../src/base/events.ts'
import type { Ready } from '../stage/crew.ts'
import { startOwnServer, type EmbeddedServer } from '../stage/postgres.ts'
import { sentence } from '../../src/terminal/failure.ts'
import type { Address } from '../../src/brokers/adapter.ts'
import type { Run } from '../stage/broker.ts'
import { close, obeyParent, say, stall } from '../stage/child.ts'
import { makeDetours, type Detour } from '../stage/detour.ts'
import { employ } from '../stage/employ.ts'
import { handlers } from './handlers.ts'
import { copyRows } from './dump.ts'
import { History, now } from './history.ts'
import { HardSource } from './hard.ts'
import { Load, type LoadOptions } from './load.ts'
import { WebhookSource } from './webhooks.ts'
import { moody, type Mood, type MoodyBroker } from '../stage/moody.ts'
import { Network, type Disturbance } from '../stage/network.ts'

/** A process of the soak: the database server, the network, a publisher, or one worker. It lives as long as its parent. */

export type Role = 'server' | 'network' | 'publisher' | 'relay' | 'receiver' | 'claimer'
export type WorkRole = Exclude<Role, 'server' | 'network'>

export interface Job {
  readonly run: Run
  readonly role: WorkRole
  /** The file to write its history to. */
  readonly history: string
  /** Connections to these go elsewhere. */
  readonly detours: readonly Detour[]
  /** What handlers call; it may be away. */
  readonly serviceUrl: string
  /** Of workers: beside what they have by default. */
  readonly options: Readonly<Record<string, unknown>>
  readonly load: LoadOptions
  /** Of the processes of one role, no two have the same. */
  readonly life: number
  /** Whether it tells what it does as it does it, and what it has claimed; or else four times a second, and the number. */
  readonly closely: boolean
}

/** What the parent says. */
export type Order =
  | { readonly type: 'begin'; readonly role: 'server' | 'network' }
  | { readonly type: 'begin'; readonly role: WorkRole; readonly job: Job }
  /** Let the event loop stand still. */
  | { readonly type: 'stall'; readonly ms: number }
  /** Let the wall clock jump by so much. */
  | { readonly type: 'clock'; readonly byMs: number }
  /** Of a publisher: messages per second, from now on. */
  | { readonly type: 'rate'; readonly perSecond: number }
  /** Of a publisher: what it has held back may come. */
  | { readonly type: 'proceed' }
  /** Of a claimer: handlers of single messages take so much longer from now on. */
  | { readonly type: 'slow'; readonly ms: number }
  /** What the broker does to this process from now on; null: nothing that it need not. */
  | { readonly type: 'mood'; readonly mood: Mood | null }
  /** Of the network: a new way to somewhere, null for a service of its own, or what is to become of one. */
  | { readonly type: 'route'; readonly name: string; readonly to: Address | null }
  | { readonly type: 'disturb'; readonly name: string; readonly how: Disturbance }
  /** Of the server: stop it by this signal, and start it again. */
  | { readonly type: 'restart'; readonly signal: NodeJS.Signals }
  /** Of the server: dump this schema, and after a while put a younger cluster with that dump in its place. */
  | { readonly type: 'restore'; readonly schema: string; readonly afterMs: number }
  | { readonly type: 'stop' }

/** What the child says. */
export type News =
  | { readonly type: 'routed'; readonly name: string; readonly port: number }
  | { readonly type: 'restarted' }
  /** By the monotonic clock: what was committed in between is gone. */
  | { readonly type: 'restored'; readonly from: number; readonly to: number }
  /** What has changed since it said this last: counts, and events that are not about single messages. */
  | { readonly type: 'tally'; readonly tally: Tally }
  /** It has stopped in good order, and ends by itself from here on. */
  | { readonly type: 'stopped' }

export interface Tally {
  readonly published: number
  readonly sent: number
  readonly received: number
  readonly handled: number
  readonly claimed: number
  readonly rss: number
  readonly events: readonly { readonly at: number; readonly event: TwinboxEvent }[]
}

const tellEveryMs = 250
const tellCloselyMs = 30
/** One per message would cost more than the messages: the history has them, the parent only their number. */
const counted: ReadonlySet<TwinboxEvent['type']> = new Set(['sent', 'received', 'claimed', 'handled'])

let role: Role | null = null
let stopped = false
let stop = async (): Promise<void> => {}
let server: EmbeddedServer | null = null
/** One thing at a time befalls a server. */
let turn: Promise<unknown> = Promise.resolve()
let network: Network | null = null
let load: Load | null = null
let broker: MoodyBroker | null = null
let slowMs = 0

async function serve(): Promise<void> {
  server = await startOwnServer({ persistent: true })
  stop = () => server!.stop()
  say({ type: 'ready', workerId: null, url: server.url } satisfies Ready)
}

async function restart(signal: NodeJS.Signals): Promise<void> {
  await server!.kill(signal)
  await server!.start()
  say({ type: 'restarted' } satisfies News)
}

/** What a restore into a new server is: the dump is of some time ago, and transactions are counted from the beginning. */
async function restore({ schema, afterMs }: Order & { type: 'restore' }): Promise<void> {
  let from = 0
  await server!.renew(async (url) => {
    const [old, young] = [server!.url, url].map((at) => new Database(at, { schema, poolSize: 2 })) as [
      Database,
      Database,
    ]
    try {
      await migrate(young)
      await young.pool.query(soakSql(schema).create)
      from = await copyRows(old, young)
      await sleep(afterMs)
    } finally {
      await Promise.all([old.close(), young.close()])
    }
  })
  say({ type: 'restored', from, to: now() } satisfies News)
}

async function begin({ run, role: as, history: path, detours, ...job }: Job): Promise<void> {
  makeDetours(detours)
  const history = new History(path)
  const tally = new Counter(job.closely)
  const tell = (): void => say({ type: 'tally', tally: tally.take() } satisfies News)
  const timer = setInterval(tell, job.closely ? tellCloselyMs : tellEveryMs)
  const end = (): void => {
    clearInterval(timer)
    tell()
    history.close()
  }
  if (as === 'publisher') {
    // An application that waits for ever for an answer that was swallowed is not what is on trial.
    const connection = {
      connectionString: run.databaseUrl,
      query_timeout: 8000,
      connectionTimeoutMillis: 5000,
    }
    const database = new Database(connection, { schema: run.schema, poolSize: 14 })
    const { rate, webhooks } = job.load
    const source =
      webhooks === null ? new HardSource(job.load, job.life) : new WebhookSource(run.name, webhooks)
    const onPublished = (count: number): void => void (tally.published += count)
    load = new Load({ run, database, history, source, rate, life: job.life, onPublished })
    stop = async () => {
      await load!.stop()
      await database.close()
      end()
    }
    load.start()
    return say({ type: 'ready', workerId: null, url: null } satisfies Ready)
  }
  const onEvent = (event: TwinboxEvent): void => {
    tally.add(event)
    if ('ids' in event && event.ids.length > 0)
      history.note(event.type, event.workerId ?? 0, event.ids.join(','))
    else if (event.type === 'sequence_mended') history.note(event.type, event.table, event.from, event.to)
    else if (event.type === 'found_below') history.note(event.type, event.lanes.join(','))
  }
  const employed = await employ({
    ...{ run, detours, role: as, options: job.options },
    onEvent,
    handlers: (database, workerId) =>
      handlers({ run, database, history, serviceUrl: job.serviceUrl, workerId, slowMs: () => slowMs }),
    over: (inner) => (broker = moody(inner)),
  })
  stop = async () => {
    await employed.stop()
    end()
  }
  await employed.worker.start()
  say({ type: 'ready', workerId: employed.worker.id, url: null } satisfies Ready)
}

/** What has happened since it was last told. */
class Counter {
  published = 0
  #sent = 0
  #received = 0
  #handled = 0
  #claimed = 0
  #events: { at: number; event: TwinboxEvent }[] = []
  readonly #closely: boolean

  constructor(closely: boolean) {
    this.#closely = closely
  }

  add(event: TwinboxEvent): void {
    if (event.type === 'sent') this.#sent += event.ids.length
    else if (event.type === 'received') this.#received += event.fresh
    else if (event.type === 'claimed') this.#claimed += event.ids.length
    else if (event.type === 'handled') this.#handled += event.ids.length
    const told = this.#closely ? event.type === 'claimed' || !counted.has(event.type) : this.#isWorthIt(event)
    if (!told) return
    const plain = 'error' in event ? { ...event, error: sentence(event.error) as never } : event
    this.#events.push({
      at: Date.now(),
      event: 'ids' in plain && !this.#closely ? { ...plain, ids: plain.ids.slice(0, 10) } : plain,
    })
  }

  /** What a fault of some seconds makes them complain about would be thousands of lines. */
  #isWorthIt({ type }: TwinboxEvent): boolean {
    return !counted.has(type) && type !== 'message_failed' && this.#events.length < 100
  }

  take(): Tally {
    const taken: Tally = {
      published: this.published,
      sent: this.#sent,
      received: this.#received,
      handled: this.#handled,
      claimed: this.#claimed,
      rss: process.memoryUsage.rss(),
      events: this.#events,
    }
    this.published = this.#sent = this.#received = this.#handled = this.#claimed = 0
    this.#events = []
    return taken
  }
}

/** Everything is closed: what would keep this process alive now is a timer or a socket that somebody forgot. */
async function leave(code: number): Promise<void> {
  await close(stop)
  if (code !== 0) process.exit(code)
  stopped = true
  say({ type: 'stopped' } satisfies News)
  process.disconnect?.()
}

const RealDate = Date
/** As if an operator or NTP had set the machine's clock. The monotonic clock stays what it is. */
function setClock(byMs: number): void {
  globalThis.Date = class extends RealDate {
    constructor(...given: []) {
      super(...((given.length === 0 ? [RealDate.now() + byMs] : given) as []))
    }
    static override now(): number {
      return RealDate.now() + byMs
    }
  } as DateConstructor
}

async function obey(order: Order): Promise<unknown> {
  switch (order.type) {
    case 'begin':
      role = order.role
      if (order.role === 'server') return serve()
      if (order.role === 'network') {
        network = new Network()
        stop = () => network!.close()
        return say({ type: 'ready', workerId: null, url: null } satisfies Ready)
      }
      return 'job' in order ? begin(order.job) : undefined
    case 'stall':
      return stall(order.ms)
    case 'clock':
      return setClock(order.byMs)
    case 'rate':
      return load?.setRate(order.perSecond)
    case 'proceed':
      return load?.proceed()
    case 'slow':
      slowMs = order.ms
      return undefined
    case 'mood':
      if (broker !== null) broker.mood = order.mood
      return undefined
    case 'route':
      return say({ type: 'routed', name: order.name, port: await network!.route(order) } satisfies News)
    case 'disturb':
      return network!.disturb(order.name, order.how)
    case 'restart':
      return (turn = turn.then(() => restart(order.signal)))
    case 'restore':
      return (turn = turn.then(() => restore(order)))
    case 'stop':
      return leave(0)
    default:
      return order satisfies never
  }
}

obeyParent(obey, () => {
  if (stopped) return
  if (role === 'server') void leave(1)
  else process.exit(1)
})
