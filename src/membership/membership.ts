import { hostname } from 'node:os'
import { sleepSql } from '../database/sql/sleep.ts'
import { workerSql, type Beat, type Peer } from '../database/sql/worker.ts'
import { startLoop, type Loop } from '../base/loop.ts'
import { version } from '../base/version.ts'
import type { MembershipOptions } from './options.ts'
import { Abandoned } from './abandoned.ts'
import { mendSequences } from './sequences.ts'
import { Session, type Sight } from './session.ts'
import { Sleep } from './sleep.ts'
import { Sightings } from './sightings.ts'
import { declareDead } from './verdict.ts'
import { Watchdog } from './watchdog.ts'
import type { WorkerKind } from '../base/events.ts'

/** Workers are often started together: for so long after one has come or gone, more of that is expected. */
const settlingMs = 5000
/** A lock that is missing is looked at again after this, since a lost connection alone is no death. */
const confirmMs = 150
const givenUp = 'Another worker took this one for dead, or an operator evicted it.'
/** What was seen there may never have been written to disk: rows are back, and numbers are given out again. */
const otherServer = 'The server was restarted or is another one: what was known of its tables does not count.'
/** The part of its time after which a worker doubts itself: before anybody else may. */
export const sureShare = 0.8

/**
 * A worker's place among those that share its work: it registers, gives signs of life, and finds the dead.
 *
 * A death is found in one of two ways. The worker's session holds an advisory lock, which Postgres frees within
 * milliseconds after the process was killed. And its row must beat, which finds those that are frozen or cut off.
 * A lease that lapses needs neither. None of them decides what counts: that is the fence's work, so a wrong verdict
 * costs a repetition and no more.
 */
export class Membership {
  id: number | null = null
  readonly abandoned = new Abandoned()
  readonly sleep: Sleep
  /** How many share the work, this one included. */
  living = 1
  /** The others of them. */
  peers: readonly number[] = []
  #changedAt = performance.now()
  readonly #options: MembershipOptions
  readonly #sql: ReturnType<typeof workerSql>
  /** Among whom it looks for peers. */
  readonly #circle: { readonly kind: WorkerKind; readonly consumer: string; readonly windowMs: number }
  readonly #sightings: Sightings
  readonly #watchdog: Watchdog
  readonly #session: Session
  #loop: Loop | null = null
  #beatAt = -Infinity
  /** On which it is registered. */
  #server: string | null = null
  #formerId: number | null = null
  #numbered: Pick<Beat, 'file' | 'position'> | null = null

  constructor(options: MembershipOptions) {
    this.#options = options
    const { kind, consumer } = options
    this.#circle = { kind, consumer, windowMs: options.leaseMs * 2 }
    this.#sql = workerSql(options.database.schema)
    this.#session = new Session(options.database, {
      lock: this.#sql.lock,
      listen: sleepSql(options.database.schema).listen,
      onEnd: () => this.#loop?.wake(),
      onGone: () => this.sleep.forget(),
      onNotified: (news) => this.sleep.hear(news),
    })
    this.sleep = new Sleep(options.database, this.#session, options)
    this.#sightings = new Sightings({ deadAfterMs: options.deadAfterMs, confirmMs })
    this.#watchdog = new Watchdog({
      isSure: () => this.id === null || (this.sure && performance.now() < options.sureUntil()),
      onDoubt: () => this.#doubt(),
      stallMs: options.heartbeatMs,
      onStall: (forMs) => options.emit({ type: 'stalled', forMs }),
    })
  }

  /** Whether it has shown so lately that it lives that nobody can believe it dead. */
  get sure(): boolean {
    return this.id !== null && performance.now() < this.#beatAt + sureShare * this.#options.deadAfterMs
  }

  /** Whether nobody has come or gone for a while. */
  get settled(): boolean {
    return performance.now() >= this.#changedAt + settlingMs
  }

  /** How the worker's own connection is, if it was open before that moment. */
  look(since: number): Promise<Sight> {
    return this.#session.look(this.#sql.look, since, this.#server)
  }

  /** Registers, and gives signs of life from then on. */
  async join(): Promise<void> {
    await mendSequences(this.#options.database, this.#options.emit)
    await this.#session.open()
    await this.#register()
    await this.#watch(await this.#peers())
    this.#watchdog.start()
    this.#loop = startLoop(() => this.#tick(), {
      onError: (error) => {
        this.#session.drop()
        this.#options.emit({ type: 'trouble', error, doing: 'heartbeat' })
      },
    })
  }

  /** Tells the others that this worker has ended by itself, so that nobody has to find out. */
  async leave(): Promise<void> {
    this.#watchdog.stop()
    await this.#loop?.stop()
    this.#loop = null
    // Others may rely on this one to watch.
    this.sleep.getUp()
    const id = this.id ?? this.#formerId
    if (id !== null) {
      await this.#options.database.keep(this.#sql.end, { id }).catch((error: unknown) => {
        this.#options.emit({ type: 'trouble', error, doing: 'leaving' })
      })
    }
    await this.#session.end()
  }

  async #tick(): Promise<number> {
    const { heartbeatMs } = this.#options
    if (!this.#session.isOpen) await this.#reopen()
    if (this.id === null) await this.#comeBack()
    const beaten = performance.now() - this.#beatAt >= heartbeatMs ? await this.#beat() : null
    await this.#watch(beaten ?? (await this.#peers()))
    const expectsNobody = this.settled && !this.abandoned.areReserved
    return Math.min(this.#sightings.pauseMs(expectsNobody), heartbeatMs)
  }

  #count(living: number): void {
    if (living === this.living) return
    this.living = living
    this.#changedAt = performance.now()
    this.#options.onPeers()
  }

  /** Returns the peers as they are now, or null if it was given up on and had to come back. */
  async #beat(): Promise<Peer[] | null> {
    const { id } = this
    if (id === null) return null
    // Our own lock may have been held by a connection of ours that the server took for alive.
    if (!this.#session.locked) await this.#session.lock(id)
    const at = performance.now()
    const values = { ...this.#circle, id, inFlight: this.#options.inFlight(), locked: this.#session.locked }
    // Before it is asked where the sequence stands: afterwards, more may have been read.
    const highest = this.#options.highest?.() ?? 0
    const peers = await this.#session.run(this.#sql.beat, values)
    const { server, file, position } = peers[0]!
    if (server !== this.#server) {
      this.#void(server === null ? givenUp : otherServer)
      await this.#comeBack()
      return null
    }
    this.#beatAt = at
    const before = this.#numbered ?? { file, position }
    if (file !== before.file || (position ?? Infinity) < Math.max(highest, before.position ?? 0)) {
      await mendSequences(this.#options.database, this.#options.emit)
      await this.#options.onBehind?.()
    }
    this.#numbered = { file, position }
    return peers
  }

  /** By the time that it could have shown that it lives, it has not. Nobody knows when the connection would tell. */
  #doubt(): void {
    if (this.id === null) return
    const forMs = Math.round(performance.now() - this.#beatAt)
    this.#void(`No sign of life for ${forMs} ms: others may take this worker for dead.`)
    this.#session.drop()
    this.#options.database.abandon()
    this.#loop?.wake()
  }

  #void(reason: string): void {
    this.#options.onVoid(reason)
    this.#formerId = this.id
    this.id = null
  }

  async #comeBack(): Promise<void> {
    const former = this.#formerId
    if (former !== null) {
      await this.#options.onReturn(former)
      await this.#session.run(this.#sql.end, { id: former })
    }
    // The lock of the former id goes with the session.
    this.#session.drop()
    await this.#session.open()
    await this.#register()
    this.#formerId = null
  }

  async #register(): Promise<void> {
    const { database, kind, consumer, topics = null, emit } = this.#options
    const [next] = await this.#session.run(this.#sql.nextId)
    await this.#session.lock(next!.id)
    const at = performance.now()
    const [registered] = await this.#session.run(this.#sql.register, {
      id: next!.id,
      kind,
      consumer,
      host: hostname(),
      pid: process.pid,
      version,
      application: database.application,
      locked: this.#session.locked,
      topics,
    })
    this.id = next!.id
    this.#server = registered!.server
    this.#beatAt = at
    this.#changedAt = at
    if (!this.#session.locked) emit({ type: 'lock_unavailable' })
  }

  async #reopen(): Promise<void> {
    await this.#session.open()
    this.#sightings.reset()
    if (this.id === null) return
    await this.#session.lock(this.id)
    // The others have to be told of the new lock.
    this.#beatAt = Math.min(this.#beatAt, performance.now() - this.#options.heartbeatMs)
  }

  /** Reads who is there, declares dead who is not, and remembers whose work may be taken. */
  async #watch(peers: readonly Peer[]): Promise<void> {
    const living = peers.filter((peer) => peer.ended_by === null && peer.id !== this.id)
    const found = this.#sightings.look(living)
    for (const { peer, foundBy } of found) {
      const fresh = living.filter((other) => other !== peer && this.#sightings.isFresh(other))
      await declareDead(this.#options, this.#session, peer, foundBy, [
        ...(this.id === null ? [] : [{ id: this.id, inFlight: this.#options.inFlight() }]),
        ...fresh.map(({ id, in_flight: inFlight }) => ({ id, inFlight })),
      ])
    }
    this.peers = living.filter((peer) => !found.some((one) => one.peer === peer)).map(({ id }) => id)
    this.#count(1 + this.peers.length)
    const known = found.length === 0 ? peers : await this.#peers()
    if (this.abandoned.update(known, this.id)) this.#options.onAbandoned()
  }

  readonly #peers = (): Promise<Peer[]> => this.#session.run(this.#sql.peers, this.#circle)
}
