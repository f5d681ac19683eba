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

  /** By the name of the key, also for a claim that is gone: others of its key may have come since. */
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
    claim.queue = queue
    queue.add(claim)
    this.makeReady(queue)
  }

  remove(claim: Claim, wasHandled: boolean): void {
    const queue = claim.queue!
    queue.remove(claim, wasHandled)
    claim.queue = null
    if (queue.claims.length === 0) this.#queues.delete(queueOf(claim))
    else this.makeReady(queue)
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

  /** One of its messages may be handled, or none of them is busy any more: the next may have its turn. */
  makeReady(queue: KeyQueue): void {
    const next = queue.queued ? null : queue.next(this.#windowOf)
    if (next === null) return
    queue.queued = true
    this.#ready.push(next.topic, queue)
  }
}
