import { exec } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'
import type { Database } from '../../src/database/database.ts'
import { migrate } from '../../src/database/migrate.ts'
import { rollback } from '../../src/database/sql/server.ts'
import { soakSql } from '../sql/soak.ts'
import { hasEnded } from '../stage/crew.ts'
import { sentence } from '../../src/terminal/failure.ts'
import { service, type Company, type Post } from './company.ts'
import type { Mood } from '../stage/moody.ts'
import type { Disturbance } from '../stage/network.ts'
import { now, type History } from './history.ts'
import { kinds, type Fault, type Kind } from './plan.ts'

/** A fault that has happened, by this machine's clock. */
export interface Strike {
  readonly number: number
  readonly kind: Kind
  /** Whom it hit. */
  readonly target: string
  readonly at: number
  healedAt: number | null
}

export interface NemesisParts {
  readonly company: Company
  readonly database: Database
  readonly databaseUrl: string
  /** Whether the server is the run's own. */
  readonly ownServer: boolean
  readonly restartBroker: string | null
  /** What it has to say of the run, beside those of the processes. */
  readonly history: History
  readonly say: (text: string) => void
}

type Chances = Pick<NemesisParts, 'company' | 'ownServer' | 'restartBroker'> & { readonly broker: string }

/** The kinds of faults that cannot be had in a run, each with the reason. */
export function missingFaults(parts: Chances): Map<Kind, string> {
  return new Map(
    (Object.keys(kinds) as Kind[]).flatMap((kind) => {
      const why = whyNot(kind, parts)
      return why === null ? [] : [[kind, why] as const]
    }),
  )
}

/** Why a kind of fault cannot be had in a run, or null if it can. */
function whyNot(kind: Kind, parts: Chances): string | null {
  const posts = parts.company.posts
  if (kind === 'serverRestart' && !parts.ownServer)
    return 'the Postgres server is yours; backends are terminated instead'
  if (kind === 'restore' && !parts.ownServer)
    return 'the Postgres server is yours, and no dump is put in its place'
  if (kind === 'restore' && parts.broker !== 'postgres')
    return 'what the broker had when the dump was made, and has given since, would be in no table'
  if (kind === 'brokerRestart' && parts.restartBroker === null)
    return 'the broker is yours; --restart-broker COMMAND would allow it'
  if (/^broker(?!Restart)/.test(kind) && posts.every(({ toBroker }) => toBroker.length === 0)) {
    return 'there is no broker beside Postgres'
  }
  if (kind.startsWith('zookeeper') && posts.every(({ toZookeeper }) => toZookeeper.length === 0))
    return 'no ZooKeeper says who lives'
  const needsWay: readonly Kind[] = ['reset', 'blackHole', 'oneWay', 'latency', 'cutAtCommit']
  if (needsWay.includes(kind) && posts.every(({ toDatabase }) => toDatabase === null)) {
    return 'the database has no address that a proxy could stand in for'
  }
  return null
}

/** Does to the company what the plan says, and heals it. */
export class Nemesis {
  readonly strikes: Strike[] = []
  /** What could not be done, since there was nobody to do it to. */
  missed = 0
  readonly #parts: NemesisParts
  readonly #sql: ReturnType<typeof soakSql>
  readonly #active = new Set<Promise<void>>()
  /** Disturbances that anybody may still feel, and for a while after. */
  #calmAt = 0
  #number = 0

  constructor(parts: NemesisParts) {
    this.#parts = parts
    this.#sql = soakSql(parts.database.schema)
    parts.company.isDisturbed = () => this.isDisturbed
  }

  get isDisturbed(): boolean {
    return (
      [...this.strikes].some(({ kind, healedAt }) => healedAt === null && !harmless.has(kind)) ||
      Date.now() < this.#calmAt
    )
  }

  /** What is under way, in words. */
  get underWay(): string[] {
    return this.strikes
      .filter(({ healedAt }) => healedAt === null)
      .map(({ kind, target }) => `${kind} ${target}`)
  }

  /** Begins a fault; it ends by itself, which can be waited for. */
  strike(fault: Fault): Promise<void> {
    const striking = this.#strike(fault)
      .catch((error: unknown) =>
        this.#parts.say(`The fault ${fault.kind} could not be carried out: ${sentence(error)}`),
      )
      .finally(() => this.#active.delete(striking))
    this.#active.add(striking)
    return striking
  }

  /** Resolves when nothing is under way any more. */
  async healed(): Promise<void> {
    while (this.#active.size > 0) await Promise.all(this.#active)
    this.#parts.company.disturb(service, { act: 'heal' })
    for (const { toDatabase, toBroker, toZookeeper } of this.#parts.company.posts) {
      for (const way of [...(toDatabase === null ? [] : [toDatabase]), ...toBroker, ...toZookeeper]) {
        this.#parts.company.disturb(way, { act: 'heal' })
      }
    }
  }

  async #strike(fault: Fault): Promise<void> {
    const victims = this.#choose(fault)
    if (victims === null) {
      this.missed++
      return
    }
    const strike: Strike = {
      number: ++this.#number,
      kind: fault.kind,
      target: victims.length > 3 ? `${victims.length} processes` : victims.map(({ name }) => name).join(', '),
      at: Date.now(),
      healedAt: null,
    }
    this.strikes.push(strike)
    const workers = victims.flatMap(({ member }) => (member?.workerId == null ? [] : [member.workerId]))
    const marks = ['kill', 'massacre', 'freeze', 'stall', 'blackHole', 'oneWay', 'restart', 'rolling']
    try {
      await this.#carryOut(fault, victims)
    } finally {
      strike.healedAt = Date.now()
      if (!harmless.has(fault.kind)) this.#calmAt = Math.max(this.#calmAt, Date.now() + 20_000)
    }
    await this.#note(strike, marks.includes(fault.kind) ? workers : [])
  }

  async #carryOut({ kind, forMs, pick }: Fault, victims: readonly Post[]): Promise<void> {
    const { company, database, restartBroker, history } = this.#parts
    const [first] = victims
    const heal: Disturbance = { act: 'heal' }
    const through = async (ways: readonly string[], how: Disturbance): Promise<void> => {
      for (const way of ways) company.disturb(way, how)
      if (forMs === 0) return
      await sleep(forMs)
      for (const way of ways) company.disturb(way, heal)
    }
    const toDatabase = victims.flatMap((post) => (post.toDatabase === null ? [] : [post.toDatabase]))
    const toBroker = victims.flatMap((post) => post.toBroker)
    const toZookeeper = victims.flatMap((post) => post.toZookeeper)
    switch (kind) {
      case 'kill':
      case 'massacre':
        for (const post of victims) post.busy = true
        await Promise.all(victims.map((post) => company.kill(post)))
        await Promise.all(victims.map((post) => company.replace(post, forMs)))
        return
      case 'freeze': {
        const { process } = first!.member!
        process.kill('SIGSTOP')
        await sleep(forMs)
        if (!hasEnded(process)) process.kill('SIGCONT')
        return
      }
      case 'restart':
        return this.#replace(first!)
      case 'rolling':
        await Promise.all([
          migrate(database),
          (async () => {
            for (const post of victims) if (!post.busy) await this.#replace(post)
          })(),
        ])
        return
      case 'stall':
        company.crew.tell(first!.member!, { type: 'stall', ms: forMs })
        return sleep(forMs)
      case 'clock': {
        const member = first!.member!
        company.crew.tell(member, { type: 'clock', byMs: (pick < 0.5 ? -1 : 1) * 3_600_000 })
        await sleep(forMs)
        return company.crew.tell(member, { type: 'clock', byMs: 0 })
      }
      case 'reset':
        return through(toDatabase, { act: 'reset' })
      case 'blackHole':
        return through(toDatabase, { act: 'blackHole', direction: 'both' })
      case 'oneWay':
        return through(toDatabase, { act: 'blackHole', direction: pick < 0.5 ? 'toServer' : 'toClient' })
      case 'latency':
        return through(toDatabase, { act: 'latency', ms: 20 + Math.round(pick * 200) })
      case 'cutAtCommit':
        return through(toDatabase, { act: 'cutAtCommit', deliver: pick < 0.5 })
      case 'terminate': {
        const whose = pick < 0.3 ? '' : first!.name
        await database.query(this.#sql.terminate, { prefix: `${database.schema}.${whose}` })
        return
      }
      case 'longTransaction':
        return this.#holdTransaction(forMs)
      case 'serverRestart':
        return company.restartServer(pick < 0.3 ? 'SIGINT' : pick < 0.65 ? 'SIGQUIT' : 'SIGKILL')
      case 'restore': {
        const { from, to } = await company.restoreServer(forMs)
        return history.note('restore', from, to)
      }
      case 'brokerReset':
        return through(toBroker, { act: 'reset' })
      case 'brokerBlackHole':
        return through(toBroker, { act: 'blackHole', direction: 'both' })
      case 'brokerDown':
        return through(toBroker, { act: 'refuse' })
      case 'zookeeperDown':
        return through(toZookeeper, { act: 'refuse' })
      case 'zookeeperBlackHole':
        return through(toZookeeper, { act: 'blackHole', direction: 'both' })
      case 'away':
        return through([service], { act: 'refuse' })
      case 'refusals':
        return this.#spoil(victims, forMs, { ...evenMood, refuses: 0.02 + pick / 10, buries: 0.002 })
      case 'repeats':
        return this.#spoil(victims, forMs, {
          ...evenMood,
          repeats: 0.3,
          forgets: 0.1,
          delayMs: 20 + pick * 200,
        })
      case 'setBack':
        for (const table of pick < 0.4 ? ['outbox'] : pick < 0.8 ? ['inbox'] : ['outbox', 'inbox'])
          await database.query(this.#sql.setBack, {
            box: table,
            by: 1 + Math.floor(((pick * 9973) % 1) * 3000),
            at: now(),
          })
        return
      case 'truncate':
        return this.#truncate(pick < 0.4 ? ['worker'] : pick < 0.8 ? ['lane'] : ['worker', 'lane'])
      case 'brokerRestart':
        await promisify(exec)(restartBroker!)
        return
      default:
        return kind satisfies never
    }
  }

  /** Whom a fault hits; nobody for what hits servers; null if there is nobody fit. */
  #choose({ kind, pick, post: named }: Fault): Post[] | null {
    const posts = this.#parts.company.posts.filter(
      ({ busy, member }) =>
        !busy && member !== null && member.state === 'working' && !hasEnded(member.process),
    )
    const one = (fit: readonly Post[]): Post[] | null => {
      const post = fit[Math.floor(((pick * 9973) % 1) * fit.length)]
      return post === undefined ? null : [post]
    }
    if (named !== undefined) return one(posts.filter(({ name }) => name === named))
    const workers = posts.filter(({ role }) => role !== 'publisher')
    if (nobodys.has(kind)) return []
    if (kind === 'refusals') return posts.filter(({ role }) => role === 'relay')
    if (kind === 'repeats') return posts.filter(({ role }) => role === 'relay' || role === 'receiver')
    if (kind === 'massacre') {
      const half = posts.toSorted((a, b) => order(a, pick) - order(b, pick)).slice(0, posts.length >> 1)
      return half.length === 0 ? null : half
    }
    if (kind === 'rolling') return workers.length === 0 ? null : workers
    if (kind === 'brokerDown') return posts.filter(({ toBroker }) => toBroker.length > 0)
    if (kind === 'brokerReset' || kind === 'brokerBlackHole') {
      return one(posts.filter(({ toBroker }) => toBroker.length > 0))
    }
    if (kind === 'zookeeperDown') return posts.filter(({ toZookeeper }) => toZookeeper.length > 0)
    if (kind === 'zookeeperBlackHole') return one(posts.filter(({ toZookeeper }) => toZookeeper.length > 0))
    if (['reset', 'blackHole', 'oneWay', 'latency', 'cutAtCommit'].includes(kind)) {
      return one(posts.filter(({ toDatabase }) => toDatabase !== null))
    }
    return one(kind === 'freeze' || kind === 'stall' ? workers : posts)
  }

  /** Puts the brokers of these into a mood for a while. Who takes their place meanwhile has a good one. */
  async #spoil(victims: readonly Post[], forMs: number, mood: Mood): Promise<void> {
    const tell = (how: Mood | null): void => {
      for (const { member } of victims)
        if (member !== null) this.#parts.company.crew.tell(member, { type: 'mood', mood: how })
    }
    tell(mood)
    await sleep(forMs)
    tell(null)
  }

  /** Where somebody works on them all the time, it takes some tries. */
  async #truncate(tables: readonly ('worker' | 'lane')[]): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await this.#parts.database.transaction((client) => client.query(this.#sql.truncate(tables)))
        return
      } catch (error) {
        if (tries === 20) throw error
        await sleep(100)
      }
    }
  }

  async #replace(post: Post): Promise<void> {
    post.busy = true
    await this.#parts.company.dismiss(post)
    await this.#parts.company.fill(post)
  }

  /** Holds the xmin horizon, the watermarks and an id, for as long as it lasts. */
  async #holdTransaction(forMs: number): Promise<void> {
    const client = new pg.Client({ connectionString: this.#parts.databaseUrl })
    client.on('error', () => {})
    await client.connect()
    try {
      await client.query(this.#sql.hold)
      await sleep(forMs)
      await client.query(rollback).catch(() => {})
    } finally {
      await client.end().catch(() => {})
    }
  }

  /** The database may be out of reach just now. */
  async #note({ number, kind, at, healedAt }: Strike, workers: readonly number[]): Promise<void> {
    for (let tries = 0; ; tries++) {
      try {
        const before = Date.now()
        const [clock] = await this.#parts.database.query(this.#sql.clock)
        const ahead = clock!.now.getTime() - (before + Date.now()) / 2
        const time = (ms: number): Date => new Date(ms + ahead)
        await this.#parts.database.query(this.#sql.struck, {
          ...{ number, kind, workers },
          at: time(at),
          healedAt: time(healedAt!),
        })
        return
      } catch (error) {
        if (tries === 50) throw error
        await sleep(300)
      }
    }
  }
}

const evenMood: Mood = { refuses: 0, buries: 0, repeats: 0, forgets: 0, delayMs: 0 }

/** What hits no process. */
const nobodys: ReadonlySet<Kind> = new Set([
  'longTransaction',
  'serverRestart',
  'brokerRestart',
  'away',
  'setBack',
  'truncate',
  'restore',
])

/** What no stop has to wait for. */
const harmless: ReadonlySet<Kind> = new Set([
  'kill',
  'massacre',
  'restart',
  'rolling',
  'clock',
  'longTransaction',
  'refusals',
  'setBack',
  'away',
])

/** An order of posts that follows from the fault alone. */
const order = ({ name }: Post, pick: number): number =>
  (Buffer.from(name).reduce((sum, byte) => sum * 31 + byte, 7) * (1 + pick)) % 1009
