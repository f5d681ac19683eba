import type { Company, Holder, RegistrationOptions } from './options.ts'
import type { Abandoned } from './abandoned.ts'
import { Registration } from './registration.ts'
import type { Sight } from './session.ts'
import type { Peer } from '../database/sql/worker.ts'
import { Sleep } from './sleep.ts'
import { Succession } from './succession.ts'

/**
 * The place of a worker that holds lanes or rows among those that share its work: its registration, what the dead have left
 * to it, and its sleep while there is nothing to do. Who holds nothing needs the registration alone.
 */
export class Membership implements Company {
  readonly sleep: Sleep
  readonly #registration: Registration
  readonly #succession = new Succession()
  readonly #holder: Holder

  constructor(options: RegistrationOptions, holder: Holder) {
    this.#holder = holder
    this.#registration = new Registration(options, holder, this)
    this.sleep = new Sleep(options.database, this.#registration.session, {
      consumer: options.consumer,
      emit: options.emit,
      worker: holder,
    })
  }

  /** Null while it is not registered. */
  get id(): number | null {
    return this.#registration.id
  }

  /** On which it is registered: what it holds counts there and nowhere else. */
  get server(): string {
    return this.#registration.server
  }

  /** Whether it has shown so lately that it lives that nobody can believe it dead. */
  get sure(): boolean {
    return this.#registration.sure
  }

  /** Whether nobody has come or gone for a while. */
  get settled(): boolean {
    return this.#succession.settled
  }

  get isCalm(): boolean {
    return this.#succession.isCalm
  }

  /** How many share the work, this one included. */
  get living(): number {
    return this.#succession.living
  }

  /** The others of them. */
  get peers(): readonly number[] {
    return this.#succession.peers
  }

  get abandoned(): Abandoned {
    return this.#succession.abandoned
  }

  /** How the worker's own connection is, if it was open before that moment. */
  look(since: number): Promise<Sight> {
    return this.#registration.look(since)
  }

  join(): Promise<void> {
    return this.#registration.join()
  }

  async leave(): Promise<void> {
    // Others may rely on this one to watch.
    this.sleep.getUp()
    await this.#registration.leave()
  }

  onJoined(at: number): void {
    this.#succession.begin(at)
  }

  onSeen(known: readonly Peer[], living: readonly Peer[]): void {
    if (this.#succession.count(living)) this.#holder.onPeers()
    if (this.abandoned.update(known, this.id)) this.#holder.onAbandoned()
  }

  onSessionGone(): void {
    this.sleep.forget()
  }

  onNotified(news: string): void {
    this.sleep.hear(news)
  }
}
