import { KeyedClaims } from './keyed.ts'
import { UnkeyedClaims } from './unkeyed.ts'
import { Circuits } from './circuits.ts'
import { Dispatcher } from './dispatcher.ts'
import type { Claim, Told } from './claim.ts'
import { InFlight } from './in-flight.ts'
import type { ResolvedHandler } from './handlers.ts'
import { Loops } from './loops.ts'
import { Payloads } from './payloads.ts'
import { Settlement } from './settlement.ts'
import { Quarantine } from './quarantine.ts'
import { rereader } from './reread.ts'
import { Unhandled, type UnhandledOptions } from './unhandled.ts'
import type { AnyClaimerOptions } from './options.ts'
import type { ClaimerContext } from './context.ts'
import type { Database } from '../database/database.ts'
import { inboxLanes, isKeyed } from '../database/layout.ts'
import { loadKysely } from '../database/kysely.ts'
import { LeaseLostError } from '../base/errors.ts'
import { emitter, type Emit } from '../base/events.ts'
import { redaction } from '../base/redaction.ts'
import type { Lane } from '../lanes/lane.ts'
import { Lanes } from '../lanes/lanes.ts'
import type { LaneHolder } from '../lanes/options.ts'
import { Parking } from '../lanes/parking.ts'
import { highestOf } from '../lanes/repair.ts'
import { Flow } from '../membership/flow.ts'
import { Membership } from '../membership/membership.ts'
import type { Holder } from '../membership/options.ts'
import { loopReports, settledWithin } from '../membership/worker.ts'
import type { Topics } from '../topics/topics.ts'

/** How one claimer was asked to work. */
export interface ClaimerParts extends Pick<ClaimerContext, 'settings' | 'failpoint' | 'pacing'> {
  readonly sharing: Pick<ClaimerContext, 'failover' | 'avoidLastHolder'>
  readonly handlerOf: (topic: string) => ResolvedHandler | undefined
  readonly topics: Topics | null
  readonly unhandled: UnhandledOptions
  readonly circuit: boolean
}

/** One running claimer: puts its parts together, starts them, stops them in the right order. */
export class RunningClaimer implements Holder, LaneHolder {
  readonly membership: Membership
  readonly #settings: ClaimerContext['settings']
  readonly #emit: Emit
  readonly #lanes: Lanes
  readonly #inFlight: InFlight
  readonly #quarantine: Quarantine
  readonly #unhandled: Unhandled
  readonly #keyed: KeyedClaims
  readonly #unkeyed: UnkeyedClaims
  readonly #dispatcher: Dispatcher
  readonly #loops: Loops
  /** Rows that were in flight when this claimer was given up on, or had to fear it. */
  #left: readonly Claim[] = []

  constructor(database: Database, options: AnyClaimerOptions, parts: ClaimerParts) {
    const { consumer } = options
    const { settings, sharing, unhandled, failpoint, pacing } = parts
    this.#settings = settings
    this.#quarantine = new Quarantine(settings.batchSize)
    const windowOf = (claim: Claim): number =>
      claim.quarantined || circuits.pauses(claim) ? 1 : (parts.handlerOf(claim.topic)?.keyWindow ?? 1)
    this.#inFlight = new InFlight(this.#quarantine, (claim, defect) => this.#giveUp(claim, defect), windowOf)
    const flow = new Flow()
    const tell = emitter(options, () => ({ kind: 'claimer', consumer, workerId: this.membership.id }))
    this.#emit = flow.counting(tell)
    const shared = { ...settings, ...sharing, database, consumer, emit: this.#emit }
    const { coordination } = options
    this.membership = new Membership(
      { ...shared, kind: 'claimer', topics: unhandled.topics, coordination, flow },
      this,
    )
    this.#lanes = new Lanes({ ...shared, membership: this.membership, count: inboxLanes, holder: this })
    const lose: ClaimerContext['lose'] = (claims, reason) => this.#lose(claims, reason)
    const reread = rereader({ inFlight: this.#inFlight, lanes: this.#lanes, lose })
    const dispatch = (): void => this.#dispatcher.dispatch()
    const redact = redaction(options.redactError, this.#emit)
    const told: Told = (error, { id, topic, key, attempt }) =>
      redact(error, { consumer, id, topic, key, attempt })
    const work = { ...shared, inFlight: this.#inFlight, lanes: this.#lanes, reread, dispatch, told }
    const circuits = new Circuits({
      ...work,
      enabled: parts.circuit,
      putOff: (claim, forMs) => settlement.putOff(claim, forMs),
    })
    const context: ClaimerContext = {
      ...{
        ...work,
        settings,
        circuits,
        quarantine: this.#quarantine,
        telemetry: options.telemetry,
        failpoint,
        pacing,
      },
      ...{ membership: this.membership, parking: new Parking(database, consumer, this.#emit) },
      lose,
    }
    const settlement = new Settlement(context, () => this.#dispatcher.isStopping)
    this.#unhandled = new Unhandled(context, unhandled)
    this.#keyed = new KeyedClaims(context, this.#unhandled)
    this.#unkeyed = new UnkeyedClaims(context, this.#unhandled)
    this.#dispatcher = new Dispatcher({
      context,
      transaction: options.transaction,
      settlement,
      handlerOf: parts.handlerOf,
      payloads: parts.topics === null ? null : new Payloads(parts.topics, settlement),
      unhandled: this.#unhandled,
      onDone: (claims) => this.#loops.fetchMore(claims),
      release: (claims) => this.#unkeyed.leases.release(claims),
    })
    this.#loops = new Loops(context, {
      ...{ keyed: this.#keyed, unkeyed: this.#unkeyed, unhandled: this.#unhandled },
      dispatcher: this.#dispatcher,
    })
  }

  get inFlight(): number {
    return this.#inFlight.size
  }

  get hasBacklog(): boolean {
    return this.#inFlight.waitingRows > 0
  }

  get sureUntil(): number {
    return Math.min(this.#lanes.sureUntil, this.#unkeyed.leases.sureUntil)
  }

  get highest(): number {
    return highestOf(this.#lanes.held)
  }

  get mayInherit(): boolean {
    return this.#unhandled.isMixed
  }

  onBehind(): Promise<void> {
    return this.#lanes.lower()
  }

  onAbandoned(): void {
    this.#quarantine.reset()
    this.#unkeyed.sweep()
    this.#lanes.wake()
    this.#loops.wake()
  }

  onPeers(): void {
    this.#lanes.wake()
  }

  onWoken(): void {
    this.#keyed.hurry()
    this.#unkeyed.hurry()
    this.#loops.wakeInTurn()
  }

  onVoid(reason: string): void {
    this.#left = [...this.#inFlight.all()].filter(({ keyed }) => !keyed)
    this.#lanes.forget(reason)
    this.#keyed.forget()
    this.#unkeyed.forget()
    this.#lose([...this.#inFlight.all()], reason)
  }

  async onReturn(formerId: number): Promise<void> {
    await this.#unkeyed.leases.release(this.#left)
    await this.#lanes.giveBack(formerId)
    this.#left = []
  }

  /** Rows of partitions have leases of their own; who holds the partition only moves its watermark. */
  lowestInFlight(lane: number): number | null {
    return isKeyed({ lane }) ? this.#inFlight.lowest(lane) : null
  }

  async onTaken(lanes: readonly Lane[]): Promise<void> {
    await this.#keyed.take(lanes.filter(isKeyed))
    setImmediate(() => this.#loops.wake())
  }

  onLowered(): void {
    this.#keyed.forget()
    this.#unkeyed.forget()
    this.#loops.wake()
  }

  onLost(lanes: readonly Lane[], reason: string): void {
    this.#lose(
      lanes.filter(isKeyed).flatMap(({ lane }) => [...this.#inFlight.all(lane)]),
      reason,
    )
  }

  async start(): Promise<void> {
    await Promise.all([this.membership.join(), loadKysely()])
    await this.#lanes.start(loopReports(this.#emit, 'keeping lanes').onError)
    this.#loops.start()
    this.#emit({ type: 'started' })
  }

  async stop(): Promise<void> {
    const ended = this.#loops.stop()
    const handled = this.#dispatcher.stop()
    await ended
    if (!(await settledWithin(handled, this.#settings.stopTimeoutMs))) {
      for (const claim of this.#inFlight.all()) claim.abort.abort(new Error('The claimer is stopping.'))
      await settledWithin(handled, 2000)
    }
    const left = [...this.#inFlight.all()]
    const report = (doing: string) => (error: unknown) => this.#emit({ type: 'trouble', error, doing })
    await this.#unkeyed.leases.release(left.filter(({ keyed }) => !keyed)).catch(report('giving rows back'))
    // The claims are kept until then: a lane's watermark may not be written down above what is in flight of it.
    await this.#lanes.stop().catch(report('giving lanes back'))
    for (const claim of left) this.#inFlight.remove(claim)
    await this.membership.leave()
    this.#emit({ type: 'stopped', released: left.length })
  }

  /** Nobody can say any more what becomes of it: a lane is given back with all that is in flight of it, and so is a row. */
  #giveUp(claim: Claim, defect: Error): void {
    const report = (doing: string) => (error: unknown) => this.#emit({ type: 'trouble', error, doing })
    report('handling')(defect)
    const lane = claim.keyed ? this.#lanes.held.get(claim.lane) : undefined
    if (lane !== undefined) this.#lanes.giveUp(lane, defect.message).catch(report('giving lanes back'))
    else if (!claim.keyed) this.#unkeyed.leases.release([claim]).catch(report('giving rows back'))
    if (this.#inFlight.has(claim)) this.#lose([claim], defect.message)
  }

  #lose(claims: readonly Claim[], reason: string): void {
    if (claims.length === 0) return
    for (const claim of claims) {
      this.#inFlight.remove(claim)
      claim.abort.abort(new LeaseLostError(reason))
    }
    this.#emit({ type: 'lease_lost', ids: claims.map(({ id }) => id), lanes: [], reason })
  }
}
