import { hostname } from 'node:os'
import { workerSql } from '../database/sql/worker.ts'
import type { TwinboxError } from '../base/errors.ts'
import { startLoop, type Loop } from '../base/loop.ts'
import { StateMachine } from '../base/state.ts'
import { version } from '../base/package.ts'
import { Circle, type Look } from './circle.ts'
import type { Assignee } from './failover.ts'
import { Heartbeat, type Answer } from './heartbeat.ts'
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
  readonly #circle: Circle
  readonly #presence: Presence
  readonly #heartbeat: Heartbeat
  readonly #watch: Watch
  readonly #watchdog: Watchdog
  readonly #life: StateMachine<Life>
  #loop: Loop | null = null
  /** The id under which it is a member, or was one before it became void. */
  #lastId: number | null = null
  /** On which it is registered. */
  #server: string | null = null
  /** What it has seen last. */
  #seen: Look | null = null

  constructor(
    options: RegistrationOptions,
    member: Member & Partial<Holder>,
    company: Company | null = null,
  ) {
    this.#options = options
    this.#member = member
    this.#company = company
    const { database, kind, consumer } = options
    this.#circle = Circle.of(database, { kind, consumer, windowMs: options.leaseMs * 2 })
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
    const onNews = (): void => this.#loop?.wake()
    this.#heartbeat = new Heartbeat(options, { beating: this, member, presence: this.#presence, onNews })
    this.#watch = new Watch(options, this.session, this.#presence, this.#circle)
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
    const until = this.#heartbeat.at + sureShare * this.#options.deadAfterMs
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
    this.#circle.enter(this.#heartbeat.voice)
    await this.#watchOver(await this.#circle.lookAnew(this.#options.database))
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
    this.#circle.leave(this.#heartbeat.voice)
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
    const { isDue, voice } = this.#heartbeat
    // Our own lock may have been held by a connection of ours that the server took for alive.
    if (isDue && this.id !== null && !this.session.locked) await this.session.lock(this.id)
    // To confirm a suspicion, what others have read a moment ago may be too old by that moment.
    const seen = this.#watch.isSuspicious ? null : this.#seen
    const look = await this.#circle.look(this.#options.database, voice, isDue, seen)
    const hasComeBack = await this.#judge(this.#heartbeat.takeAnswer())
    await this.#watchOver(hasComeBack ? await this.#circle.lookAnew(this.#options.database) : look)
    return this.#circle.pauseMs(Math.min(this.#watch.pauseMs(this.#company?.isCalm ?? true), heartbeatMs))
  }

  /** Acts on what has come of its last heartbeat. True if it was given up on and had to come back. */
  async #judge(answer: Answer | null): Promise<boolean> {
    if (answer === null) return false
    if (!answer.lives || answer.server !== this.#server) {
      this.#void(answer.lives ? otherServer : givenUp)
      await this.#comeBack()
      return true
    }
    if (answer.isBehind) {
      await mendSequences(this.#options.database, this.#options.emit)
      await this.#member.onBehind?.()
    }
    answer.accept()
    return false
  }

  /** By the time that it could have shown that it lives, it has not. Nobody knows when the connection would tell. */
  #doubt(): void {
    if (this.id === null) return
    const forMs = Math.round(performance.now() - Math.min(this.#heartbeat.at, this.#presence.heardAt))
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
      await this.session.run(this.#sql.endFormer, { id: former })
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
    this.#heartbeat.at = at
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
    this.#heartbeat.hurry()
  }

  async #watchOver(look: Look): Promise<void> {
    this.#seen = look
    const self = (): Assignee | null =>
      this.id === null ? null : { id: this.id, host: hostname(), inFlight: this.#member.inFlight }
    const { living, died } = await this.#watch.look(look, self)
    const known = died ? await this.#circle.lookAnew(this.#options.database) : look
    this.#company?.onSeen(known.peers, living)
  }
}
