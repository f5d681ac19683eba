import { setTimeout as sleep } from 'node:timers/promises'
import { soakSql } from '../sql/soak.ts'
import type { Member } from '../soak/company.ts'
import type { Tally } from '../soak/child.ts'
import type { Scene } from '../soak/conduct.ts'
import type { Fault } from '../soak/plan.ts'

/** Handlers take so long while a victim is looked for, so that each claimer has work in flight. */
const slowMs = 40
const searchMs = 10_000
/** So many in flight make a good victim; after a while anything will do. */
const goodHold = 5
const patienceMs = 500

const killOf = (post: string): Fault => ({ kind: 'kill', at: 0, forMs: 0, pick: 0, post })

/** The plan of the demo: one claimer and one relay are killed. It tells what the others make of it, by this machine's clock. */
export class Kills {
  /** How many messages the killed claimer had in flight. */
  heldMessages = 0
  /** From SIGKILL until a survivor claimed the first message that the killed claimer had in flight. */
  takeoverMs: number | null = null
  /** From SIGKILL until a survivor had lanes of the killed relay. */
  relayTakeoverMs: number | null = null
  readonly #scene: Scene
  readonly #say: (text: string) => void
  #claimer: Member | null = null
  #relay: Member | null = null
  #held = new Set<string>()
  #killedAt = Infinity

  constructor(scene: Scene, say: (text: string) => void) {
    this.#scene = scene
    this.#say = say
    scene.company.onEvent = (member, seen) => this.#see(member, seen)
  }

  /** Kills a claimer that holds messages, and a relay. */
  async strike(): Promise<void> {
    const { nemesis, company } = this.#scene
    const { crew } = company
    const claimers = crew.of('claimer')
    for (const claimer of claimers) crew.tell(claimer, { type: 'slow', ms: slowMs })
    const claimer = await this.#findVictim(claimers)
    const relay = crew.of('relay')[0]!
    this.#claimer = claimer
    this.#relay = relay
    this.#killedAt = Date.now()
    const strikes = [claimer, relay].map(({ name }) => nemesis.strike(killOf(name)))
    for (const other of crew.of('claimer')) crew.tell(other, { type: 'slow', ms: 0 })
    this.#say(
      `Killed ${claimer.name} (pid ${claimer.process.pid}) with ${this.heldMessages} messages in flight`,
    )
    this.#say(`Killed ${relay.name} (pid ${relay.process.pid})`)
    await Promise.all(strikes)
  }

  #see(member: Member, { at, event }: Tally['events'][number]): void {
    if (at < this.#killedAt || member === this.#claimer || member === this.#relay) return
    const after = at - this.#killedAt
    if (event.type === 'worker_dead') {
      const victim = [this.#claimer, this.#relay].find((dead) => dead?.workerId === event.deadWorkerId)
      if (victim == null) return
      this.#say(
        `${member.name} found ${victim.name} dead by its ${event.foundBy}, ${after} ms after the kill`,
      )
    } else if (event.type === 'takeover') {
      if (event.fromWorkerId === this.#relay?.workerId) this.relayTakeoverMs ??= after
      else if (event.fromWorkerId !== this.#claimer?.workerId) return
      const what = event.lanes.length > 0 ? `${event.lanes.length} lanes` : `${event.rows} messages`
      const from = event.fromWorkerId === this.#relay?.workerId ? this.#relay : this.#claimer
      this.#say(`${member.name} took over ${what} of ${from?.name}, ${after} ms after the kill`)
    } else if (
      event.type === 'claimed' &&
      this.takeoverMs === null &&
      event.ids.some((id) => this.#held.has(id))
    ) {
      this.takeoverMs = after
      this.#say(`${member.name} continues the messages of ${this.#claimer?.name}, ${after} ms after the kill`)
    }
  }

  /** A claimer that the database says has messages in flight. It is frozen, so that this stays true. */
  async #findVictim(claimers: readonly Member[]): Promise<Member> {
    const { database } = this.#scene
    const { held: heldBy } = soakSql(database.schema)
    const startedAt = performance.now()
    for (let round = 0; ; round++) {
      const waited = performance.now() - startedAt
      const busiest = claimers.toSorted((a, b) => b.claimed - b.done - (a.claimed - a.done))
      const candidate = busiest[round % busiest.length]!
      candidate.process.kill('SIGSTOP')
      // What it had asked for before it froze is still being done by the server.
      await sleep(20)
      const held = await database.query(heldBy, { worker: candidate.workerId ?? 0 })
      if (held.length >= (waited < patienceMs ? goodHold : 1)) {
        this.#held = new Set(held.map(({ id }) => id))
        this.heldMessages = held.length
        return candidate
      }
      candidate.process.kill('SIGCONT')
      if (waited > searchMs)
        throw new Error('No claimer had a message in flight that a kill could have interrupted.')
      await sleep(5)
    }
  }
}
