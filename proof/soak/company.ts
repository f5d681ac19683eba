import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { account, Crew, hasEnded, type Member as AnyMember } from '../stage/crew.ts'
import type { DeathSign } from '../../src/base/events.ts'
import type { Address } from '../../src/brokers/adapter.ts'
import type { Run } from '../stage/broker.ts'
import type { Job, News, Order, Role, Tally, WorkRole } from './child.ts'
import type { Detour } from '../stage/detour.ts'
import type { LoadOptions } from './load.ts'
import type { Disturbance } from '../stage/network.ts'

export type Member = AnyMember<Role>

/** A place that is to be filled: when its process dies, another takes its place, as an orchestrator would see to. */
export interface Post {
  readonly name: string
  readonly role: WorkRole
  /** Whose it is now; null in between. */
  member: Member | null
  /** How many have had it. */
  hired: number
  /** Ways through the network that only this post has. */
  readonly toDatabase: string | null
  readonly toBroker: readonly string[]
  readonly toZookeeper: readonly string[]
  readonly databaseUrl: string
  readonly detours: readonly Detour[]
  readonly options: Job['options']
  /** Being restarted by somebody; nobody else may. */
  busy: boolean
}

/** The way through the network to the service that handlers call. */
export const service = 'service'

/** By the monotonic clock: a restore has taken back what was committed from then to then. */
export interface Lost {
  readonly from: number
  readonly to: number
}

/** The processes of a run, nobody yet. */
export const createCrew = (): Crew<Role, Order, News> => new Crew(new URL('./child.js', import.meta.url))

/** Who works in a run. */
export interface Cast {
  readonly strength: Readonly<Record<WorkRole, number>>
  /** What the workers of a post are given beside what they have by default; those of a role by their number. */
  readonly options: (role: WorkRole, number: number) => Job['options']
  /** Whether there is a network between them and the servers, which can be broken. */
  readonly network: boolean
  /** Whether another process takes the place of one that has died, as an orchestrator would see to. */
  readonly replaces: boolean
  /** Whether each tells at once what it does. */
  readonly closely: boolean
}

/** After `stop`, a process has so long to end by itself: what keeps it alive then is a timer that somebody forgot. */
const endsWithinMs = 2000

/** Everybody who works in a run, and the network between them and the servers. */
export class Company {
  readonly crew: Crew<Role, Order, News>
  readonly posts: Post[] = []
  kills = 0
  /** Killed by themselves, since a message asked for it. */
  suicides = 0
  /** How processes ended that nobody and nothing had told to. */
  readonly unexpected: string[] = []
  /** How processes stopped that should have stopped in good order. */
  readonly unruly: string[] = []
  /** The longest that a process took to end after it had stopped everything, in milliseconds. */
  slowestEndMs = 0
  /** Deaths that workers have told of, by the sign by which they found them. */
  readonly deaths: Partial<Record<DeathSign, number>> = {}
  /** Starts that failed because a server was out of reach. */
  failedStarts = 0
  onTally: (post: Post, tally: Tally) => void = () => {}
  onEvent: (member: Member, seen: Tally['events'][number]) => void = () => {}
  /** Whether a fault is under way that a stop may have to wait for. */
  isDisturbed = (): boolean => false
  readonly #run: Run
  readonly #folder: string
  readonly #load: LoadOptions
  readonly #cast: Cast
  #rate: number
  #network: Member | null = null
  #serviceUrl = ''
  /** Who waits for what the server was told to do. It does one after the other. */
  readonly #restarting: (() => void)[] = []
  readonly #restoring: ((lost: Lost) => void)[] = []
  readonly #routed = new Map<string, (port: number) => void>()
  readonly #stoppedAt = new Map<Member, number>()
  #closing = false
  #lives = 0

  constructor(parts: {
    readonly run: Run
    /** Where the processes write their histories. */
    readonly folder: string
    readonly load: LoadOptions
    readonly cast: Cast
    readonly crew: Crew<Role, Order, News>
  }) {
    this.#run = parts.run
    this.#folder = parts.folder
    this.#load = parts.load
    this.#cast = parts.cast
    this.#rate = parts.load.rate
    this.crew = parts.crew
    this.crew.onNews = (member, news) => this.#hear(member, news)
    this.crew.onUnexpected = ({ member, how, signal }) => {
      if (member.role === 'server' || member.role === 'network') {
        return this.crew.fail(new Error(`The ${member.name} ended by itself (${how})`))
      }
      if (!this.#cast.replaces)
        return this.crew.fail(new Error(`The ${member.name} ended by itself (${how})`))
      const post = this.posts.find((one) => one.member === member)
      if (signal === 'SIGKILL') this.suicides++
      else if (member.workerId === null && this.isDisturbed()) this.failedStarts++
      else this.unexpected.push(`The ${member.name} ended by itself (${how})`)
      if (post !== undefined && !post.busy) void this.fill(post, 300)
    }
  }

  /** The first of each kind gets a network of its own, which can be broken; broker connections all have one. */
  async open(brokers: readonly Address[]): Promise<void> {
    if (this.#cast.network) {
      this.#network = await this.crew.hire('network', 'network', { type: 'begin', role: 'network' })
      this.#serviceUrl = `http://127.0.0.1:${await this.#route(service, null)}/`
    }
    const database = this.#cast.network ? addressOf(this.#run.databaseUrl, 5432) : null
    for (const role of ['receiver', 'relay', 'claimer', 'publisher'] as const) {
      for (let number = 1; number <= this.#cast.strength[role]; number++) {
        this.posts.push(await this.#createPost(role, number, database, this.#cast.network ? brokers : []))
      }
    }
    // What nobody has subscribed to cannot be sent.
    await this.#fillAll('receiver')
    await this.#fillAll('relay', 'claimer')
  }

  /** Has messages published from now on. */
  async beginLoad(): Promise<void> {
    await this.#fillAll('publisher')
  }

  async #fillAll(...roles: readonly WorkRole[]): Promise<void> {
    await Promise.all(this.posts.filter(({ role }) => roles.includes(role)).map((post) => this.fill(post)))
  }

  async #createPost(
    role: WorkRole,
    number: number,
    database: Address | null,
    brokers: readonly Address[],
  ): Promise<Post> {
    const name = `${role}-${number}`
    const toDatabase = number === 1 && database !== null ? `${name} database` : null
    const url = new URL(this.#run.databaseUrl)
    if (toDatabase !== null) {
      Object.assign(url, { hostname: '127.0.0.1', port: String(await this.#route(toDatabase, database)) })
    }
    url.searchParams.set('application_name', `${this.#run.name}.${name}`)
    const detours: Detour[] = []
    const detour = async (where: string, addresses: readonly Address[]): Promise<string[]> => {
      const ways = addresses.map((_, index) => `${name} ${where} ${index}`)
      for (const [index, address] of addresses.entries())
        detours.push({ ...address, via: await this.#route(ways[index]!, address) })
      return ways
    }
    const toBroker = await detour('broker', role === 'relay' || role === 'receiver' ? brokers : [])
    const zookeepers = this.#cast.network && role !== 'publisher' ? addressesOf(this.#run.zookeeper) : []
    const toZookeeper = await detour('zookeeper', zookeepers)
    const databaseUrl = url.toString()
    return {
      name,
      role,
      member: null,
      hired: 0,
      toDatabase,
      toBroker,
      toZookeeper,
      databaseUrl,
      detours,
      options: this.#cast.options(role, number),
      busy: false,
    }
  }

  /** Has somebody at a post, and resolves when there is. */
  async fill(post: Post, afterMs = 0): Promise<void> {
    post.busy = true
    try {
      if (afterMs > 0) await sleep(afterMs)
      while (!this.#closing) {
        const number = ++post.hired
        const run: Run = { ...this.#run, databaseUrl: post.databaseUrl }
        const job = {
          run,
          role: post.role,
          history: join(this.#folder, `${post.name}.${number}.tsv`),
          detours: post.detours,
          serviceUrl: this.#serviceUrl,
          options: post.options,
          load: { ...this.#load, rate: this.#rate },
          life: ++this.#lives,
          closely: this.#cast.closely,
        }
        const member = await this.crew.hire(post.name, post.role, { type: 'begin', role: post.role, job })
        post.member = member
        if (member.state === 'working') {
          if (post.role === 'publisher') this.crew.tell(member, { type: 'rate', perSecond: this.#rate })
          return
        }
        await sleep(300)
      }
    } finally {
      post.busy = false
    }
  }

  /** Has another process take the place of one that was killed, if that is how it goes here. */
  async replace(post: Post, afterMs: number): Promise<void> {
    if (this.#cast.replaces) return this.fill(post, afterMs)
    post.busy = false
  }

  async kill(post: Post): Promise<void> {
    const { member } = post
    if (member === null || hasEnded(member.process)) return
    await this.crew.kill(member)
    if (member.process.signalCode === 'SIGKILL') this.kills++
  }

  /** Stops whoever is at a post, in good order. */
  async dismiss(post: Post): Promise<void> {
    const { member } = post
    if (member === null || hasEnded(member.process)) return
    const disturbed = this.isDisturbed()
    const startedAt = performance.now()
    const inTime = await this.crew.dismiss(member, { type: 'stop' })
    if (member.state === 'killed' || disturbed || this.isDisturbed()) return
    const stoppedAt = this.#stoppedAt.get(member)
    if (!inTime) {
      const where = stoppedAt === undefined ? 'did not stop' : 'had stopped, and did not end,'
      this.unruly.push(`The ${post.name} ${where} within ${Math.round(performance.now() - startedAt)} ms`)
    } else if (member.process.exitCode !== 0) {
      this.unruly.push(
        `The ${post.name} stopped with ${member.process.signalCode ?? `exit code ${member.process.exitCode}`}`,
      )
    } else if (stoppedAt !== undefined) {
      const tookMs = performance.now() - stoppedAt
      this.slowestEndMs = Math.max(this.slowestEndMs, Math.round(tookMs))
      if (tookMs > endsWithinMs) {
        this.unruly.push(`The ${post.name} ended ${Math.round(tookMs)} ms after it had stopped everything`)
      }
    }
  }

  /** Messages per second, of all publishers together. */
  setRate(perSecond: number): void {
    this.#rate = perSecond / this.#cast.strength.publisher
    for (const member of this.crew.of('publisher')) {
      this.crew.tell(member, { type: 'rate', perSecond: this.#rate })
    }
  }

  disturb(way: string, how: Disturbance): void {
    if (this.#network !== null) this.crew.tell(this.#network, { type: 'disturb', name: way, how })
  }

  /** Ends the server's process by a signal and starts it again. Resolves when it takes connections. */
  async restartServer(signal: NodeJS.Signals): Promise<void> {
    const [server] = this.crew.of('server')
    const restarted = new Promise<void>((resolve) => this.#restarting.push(resolve))
    this.crew.tell(server!, { type: 'restart', signal })
    await restarted
  }

  /** Puts another server with an old dump in the place of the server. Resolves when it takes connections. */
  async restoreServer(afterMs: number): Promise<Lost> {
    const [server] = this.crew.of('server')
    const restored = new Promise<Lost>((resolve) => this.#restoring.push(resolve))
    this.crew.tell(server!, { type: 'restore', schema: this.#run.schema, afterMs })
    return restored
  }

  /** Stops all of one role, or everybody. */
  async stop(role?: WorkRole): Promise<void> {
    if (role === undefined) this.#closing = true
    const leaving = this.posts.filter((post) => role === undefined || post.role === role)
    for (const post of leaving) while (post.busy) await sleep(50)
    await Promise.all(leaving.map((post) => this.dismiss(post)))
  }

  async #route(name: string, to: Address | null): Promise<number> {
    const routed = new Promise<number>((resolve) => this.#routed.set(name, resolve))
    this.crew.tell(this.#network!, { type: 'route', name, to })
    return Promise.race([routed, this.crew.failed])
  }

  #hear(member: Member, news: News): void {
    if (news.type === 'routed') this.#routed.get(news.name)?.(news.port)
    else if (news.type === 'restarted') this.#restarting.shift()?.()
    else if (news.type === 'restored') this.#restoring.shift()?.(news)
    else if (news.type === 'stopped') this.#stoppedAt.set(member, performance.now())
    else {
      const { tally } = news
      for (const seen of tally.events) {
        const { event } = seen
        if (event.type !== 'claimed') account(member, event)
        if (event.type === 'worker_dead') this.deaths[event.foundBy] = (this.deaths[event.foundBy] ?? 0) + 1
        this.onEvent(member, seen)
      }
      member.claimed += tally.claimed
      member.done += tally.sent + tally.received + tally.handled
      const post = this.posts.find(({ name }) => name === member.name)
      if (post !== undefined) this.onTally(post, tally)
    }
  }
}

/** A server's address, if it has one that a proxy can stand in for. */
export function addressOf(url: string, standardPort: number): Address | null {
  const { hostname, port, searchParams } = new URL(url)
  if (hostname === '' || hostname.includes('%2F') || searchParams.has('host')) return null
  return { host: hostname.replace(/^\[(.*)\]$/, '$1'), port: port === '' ? standardPort : Number(port) }
}

/** Those of an ensemble. */
const addressesOf = (servers: string | null): Address[] =>
  (servers ?? '').split(',').flatMap((server) => addressOf(`zookeeper://${server.trim()}`, 2181) ?? [])
