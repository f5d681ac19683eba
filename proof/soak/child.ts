import { Database } from '../../src/database/database.ts'
import type { TwinboxEvent } from '../../src/base/events.ts'
import type { Ready } from '../stage/crew.ts'
import { startOwnServer } from '../stage/postgres.ts'
import { sentence } from '../../src/terminal/failure.ts'
import type { Address } from '../../src/brokers/adapter.ts'
import type { Run } from '../stage/broker.ts'
import { close, obeyParent, say, stall } from '../stage/child.ts'
import { makeDetours, type Detour } from '../stage/detour.ts'
import { employ } from '../stage/employ.ts'
import { handlers } from './handlers.ts'
import { History } from './history.ts'
import { Load, type LoadOptions } from './load.ts'
import { maxAttempts } from './message.ts'
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
}

/** What the parent says. */
export type Order =
  | { readonly type: 'begin'; readonly role: 'server' | 'network' }
  | { readonly type: 'begin'; readonly role: WorkRole; readonly job: Job }
  /** Let the event loop stand still. */
  | { readonly type: 'stall'; readonly ms: number }
  /** Let the wall clock jump by so much. */
  | { readonly type: 'clock'; readonly byMs: number }
  /** Messages per second, from now on. */
  | { readonly type: 'rate'; readonly perSecond: number }
  /** What the broker does to this process from now on; null: nothing that it need not. */
  | { readonly type: 'mood'; readonly mood: Mood | null }
  /** Of the network: a new way to somewhere, null for a service of its own, or what is to become of one. */
  | { readonly type: 'route'; readonly name: string; readonly to: Address | null }
  | { readonly type: 'disturb'; readonly name: string; readonly how: Disturbance }
  /** Of the server: stop it by this signal, and start it again. */
  | { readonly type: 'restart'; readonly signal: NodeJS.Signals }
  | { readonly type: 'stop' }

/** What the child says. */
export type News =
  | { readonly type: 'routed'; readonly name: string; readonly port: number }
  | { readonly type: 'restarted' }
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
/** One per message would cost more than the messages: the history has them, the parent only their number. */
const counted: ReadonlySet<TwinboxEvent['type']> = new Set(['sent', 'received', 'claimed', 'handled'])

let role: Role | null = null
let stopped = false
let stop = async (): Promise<void> => {}
let restart = async (_signal: NodeJS.Signals): Promise<void> => {}
let network: Network | null = null
let load: Load | null = null
let broker: MoodyBroker | null = null

async function serve(): Promise<void> {
  const server = await startOwnServer({ persistent: true })
  stop = () => server.stop()
  restart = async (signal) => {
    await server.kill(signal)
    await server.start()
  }
  say({ type: 'ready', workerId: null, url: server.url } satisfies Ready)
}

async function begin({
  run,
  role: as,
  history: path,
  detours,
  serviceUrl,
  options,
  load: loadOptions,
}: Job): Promise<void> {
  makeDetours(detours)
  const history = new History(path)
  const tally = new Counter()
  const timer = setInterval(() => say({ type: 'tally', tally: tally.take() } satisfies News), tellEveryMs)
  const end = (): void => {
    clearInterval(timer)
    say({ type: 'tally', tally: tally.take() } satisfies News)
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
    load = new Load(run, database, history, loadOptions, (count) => (tally.published += count))
    stop = async () => {
      await load!.stop()
      await database.close()
      end()
    }
    await load.start()
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
    run,
    role: as,
    options: { ...ownOptions[as], ...options },
    onEvent,
    handlers: (database, workerId) => handlers({ run, database, history, serviceUrl, workerId }),
    over: (inner) => (broker = moody(inner)),
  })
  stop = async () => {
    await employed.stop()
    end()
  }
  await employed.worker.start()
  say({ type: 'ready', workerId: employed.worker.id, url: null } satisfies Ready)
}

/** Short, so that a message that fails is not what a run waits for in the end. */
const retries = { maxAttempts, backoffMsMin: 50, backoffMsMax: 1000 } as const
const ownOptions = {
  relay: retries,
  receiver: {},
  claimer: { ...retries, concurrency: 8, onDead: 'skip', handleTimeoutMs: 4000 },
} as const

/** What has happened since it was last told. */
class Counter {
  published = 0
  #sent = 0
  #received = 0
  #handled = 0
  #claimed = 0
  #events: { at: number; event: TwinboxEvent }[] = []

  add(event: TwinboxEvent): void {
    if (event.type === 'sent') this.#sent += event.ids.length
    else if (event.type === 'received') this.#received += event.fresh
    else if (event.type === 'claimed') this.#claimed += event.ids.length
    else if (event.type === 'handled') this.#handled += event.ids.length
    // What a fault of some seconds makes them complain about would be thousands of lines.
    if (counted.has(event.type) || event.type === 'message_failed' || this.#events.length >= 100) return
    const plain = 'error' in event ? { ...event, error: sentence(event.error) as never } : event
    this.#events.push({
      at: Date.now(),
      event: 'ids' in plain ? { ...plain, ids: plain.ids.slice(0, 10) } : plain,
    })
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

async function obey(order: Order): Promise<void> {
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
    case 'mood':
      if (broker !== null) broker.mood = order.mood
      return
    case 'route':
      return say({ type: 'routed', name: order.name, port: await network!.route(order) } satisfies News)
    case 'disturb':
      return network!.disturb(order.name, order.how)
    case 'restart':
      await restart(order.signal)
      return say({ type: 'restarted' } satisfies News)
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
