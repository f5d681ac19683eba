import type { IncomingMessage } from '../brokers/broker.ts'
import { batchLength, bytesOf } from '../brokers/consuming.ts'
import type { Database } from '../database/database.ts'
import { collision, digestOf, findCollisions, type InboxMessage } from '../database/inbox.ts'
import { halving } from '../database/halving.ts'
import { isContentError, isPassing } from '../database/sqlstate.ts'
import type { Emit } from '../base/events.ts'
import { reconnectMs } from '../base/loop.ts'
import { pause } from '../base/waiting.ts'
import { loopReports } from '../membership/worker.ts'
import { readDelivery, toDelivery, toldOf, type Reading } from './delivery.ts'
import { setAside, toLetter, withoutBody, withoutHeaders, type Letter } from './letter.ts'

/** A message, and what it was read from. */
interface Read {
  readonly message: InboxMessage
  readonly incoming: IncomingMessage
}

interface Parts {
  readonly database: Database
  readonly reading: Reading
  readonly batchSize: number
  readonly batchBytes: number
  readonly emit: Emit
  readonly stopping: AbortSignal
  /** What becomes of a message that is new but for its identity. */
  readonly collisions: Collisions
  /** Writes messages to the inbox. Returns how many were new. */
  readonly store: (messages: readonly InboxMessage[]) => Promise<number>
}

export const collisionPolicies = ['bury', 'drop'] as const
export type Collisions = (typeof collisionPolicies)[number]

/** What became of a batch. */
export interface Taken {
  readonly fresh: number
  /** Those among them that became dead letters since another message has their identity. */
  readonly collisions: number
  readonly refused: number
}

/**
 * Takes deliveries in, each as a message or as a dead letter, and resolves when the database has them all. What
 * cannot be a message, or cannot be stored, is set aside by itself and does not hold up the others; an outage holds
 * them all up, until it is over.
 *
 * @throws what the database threw last, when the receiver stops meanwhile: the broker delivers again what is missing
 */
export class Intake {
  readonly #parts: Parts
  readonly #reports: ReturnType<typeof loopReports>
  #refused = 0
  #collisions = 0

  constructor(parts: Parts) {
    this.#parts = parts
    this.#reports = loopReports(parts.emit, 'receiving')
  }

  /** One batch at a time. Adapters cut their batches as well, but anybody may write one. */
  async take(handedOver: readonly IncomingMessage[]): Promise<Taken> {
    const batch = handedOver.map(toDelivery)
    this.#refused = 0
    this.#collisions = 0
    let fresh = 0
    for (let start = 0, length = 0; start < batch.length; start += length) {
      length = batchLength(batch, bytesOf, this.#parts, start)
      fresh += await this.#takePart(batch.slice(start, start + length))
    }
    return { fresh, refused: this.#refused, collisions: this.#collisions }
  }

  async #takePart(deliveries: readonly IncomingMessage[]): Promise<number> {
    const messages = new Map<string, Read>()
    /** Of one identity with another in this batch, and not of its content. */
    const others: Read[] = []
    const letters: Letter[] = []
    for (const incoming of deliveries) {
      const message = readDelivery(incoming, this.#parts.reading)
      if (typeof message === 'string') {
        letters.push(this.#toLetter(incoming, message))
        continue
      }
      // The same message twice in a batch: the first counts.
      const first = messages.get(message.id)
      if (first === undefined) messages.set(message.id, { message, incoming })
      else if (digestOf(first.message) !== digestOf(message)) others.push({ message, incoming })
    }
    const all = [...messages.values()]
    const { fresh, refused } = await this.#store(all)
    // Which of two is the other one, the inbox says: the first in a batch may be.
    const doubtful = fresh + refused.length < all.length ? all.filter((one) => !refused.includes(one)) : []
    const collided = await this.#findCollisions([...doubtful, ...others])
    this.#collisions += collided.length
    letters.push(...collided.map(({ incoming }) => this.#toLetter(incoming, collision)))
    if (letters.length > 0) await this.#setAside(letters)
    return fresh
  }

  async #store(all: readonly Read[]): Promise<{ fresh: number; refused: readonly Read[] }> {
    let fresh = 0
    const refused: Read[] = []
    if (all.length === 0) return { fresh, refused }
    await halving(
      all,
      async (some) => {
        fresh += await this.#insist(() => this.#parts.store(some.map(({ message }) => message)))
      },
      async (one, error) => {
        refused.push(one)
        const told = toldOf(error, one.incoming, this.#parts.reading)
        await this.#setAside([this.#toLetter(one.incoming, `The database refuses it: ${told}`)])
      },
    )
    return { fresh, refused }
  }

  async #findCollisions(doubtful: readonly Read[]): Promise<readonly Read[]> {
    if (this.#parts.collisions === 'drop' || doubtful.length === 0) return []
    const messages = doubtful.map(({ message }) => message)
    const found = await this.#insist(() => findCollisions(this.#parts.database, messages))
    return doubtful.filter(({ message }) => found.includes(message))
  }

  #toLetter(incoming: IncomingMessage, reason: string): Letter {
    return toLetter(incoming, reason, this.#parts.reading.maxPayloadBytes)
  }

  async #setAside(letters: readonly Letter[]): Promise<void> {
    const { database, reading, emit } = this.#parts
    const write = (some: readonly Letter[]): Promise<void> =>
      this.#insist(() => setAside(database, reading.consumer, some))
    await halving(letters, write, async (letter, error) => {
      // The last resort: its place is known, and what is behind it goes on.
      const because = `The database does not keep more of it: ${toldOf(error, letter, reading)}`
      await halving([withoutHeaders(letter, because)], write, () => write([withoutBody(letter, because)]))
    })
    this.#refused += letters.length
    for (const { topic, reason } of letters) emit({ type: 'refused', topic, reason })
  }

  /** Waiting here is what holds the broker back. Only a stop gives up, and then the broker delivers again. */
  async #insist<Result>(work: () => Promise<Result>): Promise<Result> {
    const { stopping } = this.#parts
    for (let failures = 1; ; failures++) {
      try {
        const result = await work()
        this.#reports.onRecovered()
        return result
      } catch (error) {
        if (isContentError(error)) throw error
        const retryInMs = reconnectMs(failures, 100, isPassing(error) ? 2000 : 10_000)
        this.#reports.onError(error, failures, retryInMs)
        if (!stopping.aborted) await pause(retryInMs, stopping)
        if (stopping.aborted) throw error
      }
    }
  }
}
