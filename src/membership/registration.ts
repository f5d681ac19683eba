import { hostname } from 'node:os'
import { workerSql, type Beat, type Peer } from '../database/sql/worker.ts'
import type { TwinboxError } from '../base/errors.ts'
import type { WorkerKind } from '../base/events.ts'
import { startLoop, type Loop } from '../base/loop.ts'
import { StateMachine } from '../base/state.ts'
import { version } from '../base/package.ts'
import type { Assignee } from './failover.ts'
import { noFlow } from './flow.ts'
import { lifeMoves, type Life } from './life.ts'
import type { Company, Holder, Member, RegistrationOptions } from './options.ts'
import { Presence } from './presence.ts'
import { mendSequences } from './sequences.ts'
import { Session, type Sight } from './session.ts'
import { Watch } from './watch.ts'
import { sureShare, Watchdog } from './watchdog.ts'

const givenUp = 'Another worker took this one for dead, or an operator evicted it.'
/** What was seen there may never have been written to disk: rows are back, and numbers are given out again. */
const otherServer = 'The server was restarted or is another one: what was known of its tables does not count.'

/**
 * What every worker needs: it registers, gives signs of life, and finds the dead of its kind.
 *
 * A death is found in one of three ways. The worker's session holds an advisory lock, which Postgres frees within
 * milliseconds after the process was killed. Its row must beat, which finds those that are frozen or cut off. And with a
 * coordination it gives a sign that ends with the process. A lease that lapses needs none of them. None of them decides what counts: that is the fence's work, so a wrong verdict
 * costs a repetition and no more.
 */
export class Registration {
  readonly session: Session
  readonly #options: RegistrationOptions
  readonly #member: Member & Partial<Holder>
  readonly #company: Company | null
  readonly #sql: ReturnType<typeof workerSql>
  /** Among whom it looks for peers. */
  readonly #circle: { readonly kind: WorkerKind; readonly consumer: string; readonly windowMs: number }
  readonly #presence: Presence
  readonly #watch: Watch
  readonly #watchdog: Watchdog
  readonly #life: StateMachine<Life>
  #loop: Loop | null = null
  #beatAt = -Infinity
  /** The id under which it is a member, or was one before it became void. */
  #lastId: number | null = null
  /** On which it is registered. */
  #server: string | null = null
  #numbered: Pick<Beat, 'file' | 'position'> | null = null

  constructor(
    options: RegistrationOptions,
    member: Member & Partial<Holder>,
    company: Company | null = null,
  ) {
    this.#options = options
    this.#member = member
    this.#company = company
    this.#circle = { kind: options.kind, consumer: options.consumer, windowMs: options.leaseMs * 2 }
    this.#sql = workerSql(options.database.schema)
    this.#life = new StateMachine<Life>('A worker', lifeMoves, 'outside', (defect) => this.#giveUp(defect))
    this.session = new Session(options.database, {
      onEnd: () => this.#loop?.wake(),
      onGone: () => company?.onSessionGone(),
      onNotified: (news) => company?.onNotified(news),
      patienceMs: options.deadAfterMs / 4,
    })
    this.#presence = new Presence(options, {
      onNews: () => this.#loop?.wake(),
      onLost: (reason) => this.#life.is('member') && this.#letGo(reason),
    })
    this.#watch = new Watch(options, this.session, this.#presence)
    this.#watchdog = new Watchdog({
      isSure: () => this.id === null || (this.sure && performance.now() < (member.sureUntil ?? Infinity)),
      onDoubt: () => this.#doubt(),
      stallMs: options.heartbeatMs,
      onStall: (forMs) => options.emit({ type: 'stalled', forMs }),
    })
  }

  /** Null while it is not registered. That of one that has left still stands. */
  get id(): number | null {
    return this.#life.is('void') ? null : this.#lastId
  }

  /** On which it is registered, or was last; empty before. */
  get server(): string {
    return this.#server ?? ''
  }

  /** Whether it has shown so lately that it lives that nobody can believe it dead. */
  get sure(): boolean {
    const until = this.#beatAt + sureShare * this.#options.deadAfterMs
    return this.id !== null && performance.now() < Math.min(until, this.#presence.sureUntil)
  }

  /** How the worker's own connection is, if it was open before that moment. */
  look(since: number): Promise<Sight> {
    return this.session.look(since, this.#server)
  }

  /** Registers, and gives signs of life from then on. */
  async join(): Promise<void> {
    await mendSequences(this.#options.database, this.#options.emit)
    await this.session.open()
    await this.#register()
    await this.#watchOver(await this.#peers())
    this.#watchdog.start()
    this.#loop = startLoop(() => this.#tick(), {
      onError: (error) => {
        this.session.drop()
        this.#options.emit({ type: 'trouble', error, doing: 'heartbeat' })
      },
    })
  }

  /** Tells the others that this worker has ended by itself, so that nobody has to find out. */
  async leave(): Promise<void> {
    this.#watchdog.stop()
    await this.#loop?.stop()
    this.#loop = null
    if (!this.#life.is('left')) this.#life.go('left')
    if (this.#lastId !== null) {
      await this.#options.database.keep(this.#sql.end, { id: this.#lastId }).catch((error: unknown) => {
        this.#options.emit({ type: 'trouble', error, doing: 'leaving' })
      })
    }
    await this.#presence.leave()
    await this.session.end()
  }

  async #tick(): Promise<number> {
    const { heartbeatMs } = this.#options
    if (!this.session.isOpen) await this.#reopen()
    if (this.#life.is('void')) await this.#comeBack()
    const isDue = performance.now() - this.#beatAt >= heartbeatMs || !this.#presence.isTold
    await this.#watchOver((isDue ? await this.#beat() : null) ?? (await this.#peers()))
    return Math.min(this.#watch.pauseMs(this.#company?.isCalm ?? true), heartbeatMs)
  }

  /** Returns the peers as they are now, or null if it was given up on and had to come back. */
  async #beat(): Promise<Peer[] | null> {
    const { id } = this
    if (id === null) return null
    // Our own lock may have been held by a connection of ours that the server took for alive.
    if (!this.session.locked) await this.session.lock(id)
    const at = performance.now()
    const { text: sign } = this.#presence
    const told = this.#presence.telling(sign)
    const said = { inFlight: this.#member.inFlight, ...(this.#options.flow ?? noFlow).tell() }
    const values = { ...this.#circle, id, ...said, locked: this.session.locked, sign }
    // Before it is asked where the sequence stands: afterwards, more may have been read.
    const highest = this.#member.highest ?? 0
    const peers = await this.session.run(this.#sql.beat, values)
    // It has let go of all meanwhile.
    if (this.id !== id) return null
    const { server, file, position } = peers[0]!
    if (server !== this.#server) {
      this.#void(server === null ? givenUp : otherServer)
      await this.#comeBack()
      return null
    }
    this.#beatAt = at
    told()
    const before = this.#numbered ?? { file, position }
    if (file !== before.file || (position ?? Infinity) < Math.max(highest, before.position ?? 0)) {
      await mendSequences(this.#options.database, this.#options.emit)
      await this.#member.onBehind?.()
    }
    this.#numbered = { file, position }
    return peers
  }

  /** By the time that it could have shown that it lives, it has not. Nobody knows when the connection would tell. */
  #doubt(): void {
    if (this.id === null) return
    const forMs = Math.round(performance.now() - Math.min(this.#beatAt, this.#presence.heardAt))
    this.#letGo(`No sign of life for ${forMs} ms: others may take this worker for dead.`)
    this.#options.database.abandon()
  }

  /** It has lost its way: all that it holds is void, and it comes back as another one. */
  #giveUp(defect: TwinboxError): void {
    this.#options.emit({ type: 'trouble', error: defect, doing: 'heartbeat' })
    if (this.id !== null) this.#letGo(defect.message)
  }

  #letGo(reason: string): void {
    this.#void(reason)
    this.session.drop()
    this.#loop?.wake()
  }

  #void(reason: string): void {
    this.#member.onVoid?.(reason)
    // Whoever sees its sign would believe that its work is still done.
    void this.#presence.leave()
    this.#life.go('void')
  }

  async #comeBack(): Promise<void> {
    const former = this.#lastId
    if (former !== null) {
      await this.#member.onReturn?.(former)
      await this.session.run(this.#sql.end, { id: former })
    }
    // The lock of the former id goes with the session.
    this.session.drop()
    await this.session.open()
    await this.#register()
  }

  async #register(): Promise<void> {
    const { database, kind, consumer, topics = null, emit } = this.#options
    const [next] = await this.session.run(this.#sql.nextId)
    await this.session.lock(next!.id)
    const at = performance.now()
    const [registered] = await this.session.run(this.#sql.register, {
      ...{ id: next!.id, kind, consumer, topics, locked: this.session.locked },
      ...{ host: hostname(), pid: process.pid, version, application: database.application },
    })
    this.#lastId = next!.id
    this.#server = registered!.server
    this.#beatAt = at
    this.#life.go('member')
    this.#company?.onJoined(at)
    this.#presence.enter(next!.id, registered!.database)
    if (!this.session.locked) emit({ type: 'lock_unavailable' })
  }

  async #reopen(): Promise<void> {
    await this.session.open()
    this.#watch.reset()
    if (this.id === null) return
    await this.session.lock(this.id)
    // The others have to be told of the new lock.
    this.#beatAt = Math.min(this.#beatAt, performance.now() - this.#options.heartbeatMs)
  }

  async #watchOver(peers: readonly Peer[]): Promise<void> {
    const self = (): Assignee | null =>
      this.id === null ? null : { id: this.id, host: hostname(), inFlight: this.#member.inFlight }
    const { living, died } = await this.#watch.look(peers, self)
    this.#company?.onSeen(died ? await this.#peers() : peers, living)
  }

  readonly #peers = (): Promise<Peer[]> => this.session.run(this.#sql.peers, this.#circle)
}
