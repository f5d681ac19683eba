import { isKeyed } from '../database/layout.ts'
import { topicsMax, unhandledSql, unkeyedLane } from '../database/sql/unhandled.ts'
import { workerSql } from '../database/sql/worker.ts'
import type { Lane } from '../lanes/lane.ts'
import { topicMatches } from '../message/message.ts'
import type { Claim } from './claim.ts'
import type { ClaimerContext } from './context.ts'
import type { UnknownPolicy } from './options.ts'
import type { Settlement } from './settlement.ts'
import type { PartitionedRow } from '../database/sql/inbox.ts'

export interface UnhandledOptions {
  readonly policy: UnknownPolicy
  /** The names and patterns that this claimer has handlers for. */
  readonly topics: readonly string[]
  readonly handles: (topic: string) => boolean
}

interface Peer {
  readonly id: number
  /** Null if it is of a version that does not say. */
  readonly topics: readonly string[] | null
}

/** What is being brought back of a lane. Meanwhile nothing of the lane may be read. */
interface Coming {
  readonly topics: readonly string[]
  /** Something else has the place of the next one: until that has been handled, for which the lane has to be read. */
  waits: boolean
}

const lookMs = 500
/** So many messages of a lane are brought back at a time, and for so long: leases go on being renewed. */
const bringBatch = 500
const bringMs = 200
/** So long a lane is kept of which something has come back. */
const keptMs = 5000
const knownMax = 10_000

/**
 * Messages of topics that this claimer has no handler for: a new version of the application may have one, or an old one
 * had. They are set aside without a count, and what follows of their key goes on.
 *
 * Whoever holds a lane has nothing aside of it that it could handle itself: before it reads a lane that it has taken, it
 * brings that back to where it stood, so that among what it handles the order of a key is whole. If it holds a lane of
 * which something waits for another living claimer, it makes the lane over to that one. Messages without a key are taken
 * one by one, by any claimer that has a handler for them.
 */
export class Unhandled {
  readonly policy: UnknownPolicy
  readonly #context: ClaimerContext
  readonly #options: UnhandledOptions
  readonly #sql: ReturnType<typeof unhandledSql>
  #peers: readonly Peer[] = []
  /** Whom the peers were when they were last asked for their topics. */
  #asked: string | null = null
  /** Whether it has been looked for messages without a key since the peers are who they are. */
  #looked = false
  #assignees = new Map<string, readonly number[]>()
  /** Lanes whose messages are being brought back. */
  readonly #coming = new Map<number, Coming>()
  /** Topics of messages without a key that this claimer can take, and behind which topic to look for more. */
  #unkeyed: readonly string[] = []
  #after = ''
  #lookAt = 0

  constructor(context: ClaimerContext, options: UnhandledOptions) {
    this.policy = options.policy
    this.#context = context
    this.#options = options
    this.#sql = unhandledSql(context.database.schema)
  }

  /** Whether other versions of the application are at work: somebody lacks a handler that this claimer has. */
  get isMixed(): boolean {
    const { topics } = this.#options
    return this.#peers.some(
      (peer) => peer.topics === null || topics.some((topic) => !peer.topics!.includes(topic)),
    )
  }

  /** Whether nothing of a lane may be read yet. */
  isComing(lane: number): boolean {
    return this.#coming.get(lane)?.waits === false
  }

  /** Lanes are about to be this claimer's: what waits of them, and for whom? */
  async take(lanes: readonly Lane[]): Promise<void> {
    for (const { lane } of lanes) this.#coming.delete(lane)
    if (this.#asked === null) await this.#askPeers()
    await this.#sort(lanes)
  }

  /** Ends claims of topics without a handler: sets them aside, or drops them. */
  async passOver(claims: readonly Claim[], settlement: Settlement): Promise<void> {
    const { inFlight, lanes, emit, lose, reread } = this.#context
    try {
      const gone = await (this.policy === 'drop' ? settlement.complete(claims) : settlement.setAside(claims))
      for (const claim of gone) {
        inFlight.remove(claim)
        const lane = claim.keyed ? lanes.held.get(claim.lane) : undefined
        if (lane !== undefined) lane.assignee ??= this.#assigneeOf(lane.lane, claim.topic)
      }
      const type = this.policy === 'drop' ? 'dropped' : 'set_aside'
      for (const topic of new Set(gone.map((claim) => claim.topic)))
        emit({ type, topic, ids: gone.flatMap((claim) => (claim.topic === topic ? [claim.id] : [])) })
      const rest = claims.filter((claim) => !gone.includes(claim) && inFlight.has(claim))
      reread(rest)
      lose(rest, 'A message without a handler could not be set aside: it is held by somebody else.')
    } catch (error) {
      emit({ type: 'trouble', error, doing: 'settling' })
    }
  }

  /** Messages without a key that had been set aside, claimed; null if there are none. */
  async adopt(limit: number, workerId: number, bytes: number): Promise<readonly PartitionedRow[] | null> {
    const { database, consumer, settings } = this.#context
    if (this.#unkeyed.length === 0) return null
    const rows = await database.keep(this.#sql.adopt, {
      consumer,
      topics: this.#unkeyed,
      most: limit,
      worker: workerId,
      leaseMs: settings.leaseMs,
      bytes,
    })
    // Fewer may also have been all that fits. Whether there are more is known when there are none.
    if (rows.length === 0) this.#unkeyed = []
    return rows.length === 0 ? null : rows
  }

  /** Looks who is there and what waits, and brings back. True if something has come. */
  async keepHouse(): Promise<boolean> {
    const { membership, lanes } = this.#context
    const isNews = membership.peers.join() !== this.#asked
    if (isNews) {
      await this.#askPeers()
      await this.#sort([...lanes.held.values()].filter(isKeyed))
    }
    const now = performance.now()
    const mayBeMore = this.#unkeyed.length === 0 && (this.isMixed || this.#after !== '')
    const looks = !this.#looked || (mayBeMore && now >= this.#lookAt)
    if (looks) {
      this.#lookAt = now + lookMs
      await this.#lookForUnkeyed()
      this.#looked = true
    }
    const hasCome = await this.#bringBack()
    return hasCome || (looks && this.#unkeyed.length > 0)
  }

  async #askPeers(): Promise<void> {
    const { database, membership } = this.#context
    const ids = membership.peers
    const { topicsOf } = workerSql(database.schema)
    this.#peers = ids.length === 0 ? [] : await database.keep(topicsOf, { ids })
    this.#assignees = new Map()
    this.#asked = ids.join()
    this.#looked = false
  }

  /** Of what waits of these lanes, what is this claimer's and what is others'. */
  async #sort(lanes: readonly Lane[]): Promise<void> {
    for (const lane of lanes) lane.assignee = null
    const { database, consumer } = this.#context
    for (let behind = lanes.map((lane) => ({ lane, topic: '' })); behind.length > 0;) {
      const found = await database.keep(this.#sql.topics, {
        consumer,
        lanes: behind.map(({ lane }) => lane.lane),
        after: behind.map(({ topic }) => topic),
      })
      const next: typeof behind = []
      for (const { lane } of behind) {
        const topics = found.flatMap((row) => (row.lane === lane.lane ? [row.topic] : []))
        const own = topics.filter((topic) => this.#takes(topic))
        if (own.length > 0) {
          const all = [...new Set([...(this.#coming.get(lane.lane)?.topics ?? []), ...own])]
          this.#coming.set(lane.lane, { topics: all, waits: false })
          // Given away before something of it has been handled, it would go to and fro between two that each have a part.
          lane.keptUntil = Math.max(lane.keptUntil, performance.now() + keptMs)
        }
        for (const topic of topics)
          if (!own.includes(topic)) lane.assignee ??= this.#assigneeOf(lane.lane, topic)
        if (topics.length === topicsMax) next.push({ lane, topic: topics.at(-1)! })
      }
      behind = next
    }
  }

  async #lookForUnkeyed(): Promise<void> {
    const { database, consumer } = this.#context
    const found = await database.keep(this.#sql.topics, {
      consumer,
      lanes: [unkeyedLane],
      after: [this.#after],
    })
    this.#after = found.length === topicsMax ? found.at(-1)!.topic : ''
    this.#unkeyed = found.map(({ topic }) => topic).filter((topic) => this.#takes(topic))
  }

  async #bringBack(): Promise<boolean> {
    const { database, consumer, lanes } = this.#context
    const enough = performance.now() + bringMs
    let hasCome = false
    for (const [number, coming] of this.#coming) {
      const lane = lanes.held.get(number)
      coming.waits = false
      while (lane !== undefined && performance.now() < enough) {
        const values = { consumer, lane: number, fence: lane.fence, topics: coming.topics, most: bringBatch }
        const [back] = await database.keep(this.#sql.bringBack, values).catch((error: unknown) => {
          // The answer is lost, and messages may be back anywhere in the lane.
          lane.watermark.lower(1)
          throw error
        })
        hasCome ||= back!.count > 0 || !back!.waits
        if (back!.count === 0) {
          coming.waits = back!.waits
          if (!back!.waits) this.#coming.delete(number)
          break
        }
        lane.watermark.lower(back!.first!)
        lane.lowered = back!.lowered!
      }
    }
    return hasCome
  }

  /** What nobody has a handler for, a claimer that does not wait fails or drops. */
  #takes(topic: string): boolean {
    return this.#options.handles(topic) || (this.policy !== 'wait' && this.#assigneesOf(topic).length === 0)
  }

  #assigneeOf(lane: number, topic: string): number | null {
    const assignees = this.#assigneesOf(topic)
    return assignees.length === 0 ? null : assignees[lane % assignees.length]!
  }

  /** The living claimers that have a handler for a topic. */
  #assigneesOf(topic: string): readonly number[] {
    let assignees = this.#assignees.get(topic)
    if (assignees === undefined) {
      if (this.#assignees.size >= knownMax) this.#assignees.clear()
      const able = this.#peers.filter(({ topics }) => topics?.some((pattern) => topicMatches(pattern, topic)))
      this.#assignees.set(topic, (assignees = able.map(({ id }) => id)))
    }
    return assignees
  }
}
