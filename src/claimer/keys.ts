import { queueOf, type Claim } from './claim.ts'
import { KeyQueue } from './key-queue.ts'
import { Turns } from './turns.ts'

/** The keys of which something is in flight, and in turns those of which a message may be handled. */
export class Keys {
  readonly #queues = new Map<string, KeyQueue>()
  readonly #ready = new Turns<KeyQueue>()
  readonly #windowOf: (claim: Claim) => number

  constructor(windowOf: (claim: Claim) => number) {
    this.#windowOf = windowOf
  }

  /** Of how many keys a message may be handled. */
  get ready(): number {
    return this.#ready.size
  }

  of(claim: Pick<Claim, 'lane' | 'key'>): KeyQueue | undefined {
    return this.#queues.get(queueOf(claim))
  }

  readyOf(topic: string): readonly KeyQueue[] {
    return this.#ready.of(topic)
  }

  add(claim: Claim): void {
    const id = queueOf(claim)
    let queue = this.#queues.get(id)
    if (queue === undefined) this.#queues.set(id, (queue = new KeyQueue()))
    queue.add(claim)
    this.#makeReady(queue)
  }

  remove(claim: Claim, wasHandled: boolean): void {
    const queue = this.of(claim)!
    queue.remove(claim, wasHandled)
    if (queue.claims.length === 0) this.#queues.delete(queueOf(claim))
    else this.#makeReady(queue)
  }

  /** A message that may be handled next, of the key whose turn it is. */
  shift(): Claim | undefined {
    for (let queue = this.#ready.shift(); queue !== undefined; queue = this.#ready.shift()) {
      queue.queued = false
      const next = queue.next(this.#windowOf)
      if (next !== null) return next
    }
    return undefined
  }

  /** Whether all that is before it in its key was handled. */
  isNext(claim: Claim): boolean {
    const queue = this.of(claim)
    return queue?.claims[queue.handled] === claim
  }

  /** One of its messages may be handled again, or is not busy any more. */
  proceed(claim: Claim): void {
    this.#makeReady(this.of(claim)!)
  }

  /** The handler of its next one has returned, and the one behind that may start. */
  handled(claim: Claim): void {
    const queue = this.of(claim)!
    queue.handled++
    this.#makeReady(queue)
  }

  #makeReady(queue: KeyQueue): void {
    const next = queue.queued ? null : queue.next(this.#windowOf)
    if (next === null) return
    queue.queued = true
    this.#ready.push(next.topic, queue)
  }
}
