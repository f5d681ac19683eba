import type { SendOutcome } from '../broker.ts'
import { bytesOfFrames, type Frames } from './frames.ts'

/** A message on its way to one consumer. */
export interface Entry {
  readonly id: string
  readonly frames: Frames
  readonly bytes: number
  /** True once ZeroMQ has had it: from then on it may have arrived. */
  written: boolean
  /** Called once. */
  readonly settle: (outcome: SendOutcome) => void
}

export const toEntry = (frames: Frames, settle: Entry['settle']): Entry => ({
  id: frames[0],
  frames,
  bytes: bytesOfFrames(frames),
  written: false,
  settle,
})

/**
 * What is under way to one consumer, in the order in which it was given. After another connection has taken the place of one, all goes
 * again from the first that is not acknowledged on: of a key, nothing may arrive before what was sent before it.
 */
export class Window {
  readonly #most: number
  readonly #mostBytes: number
  #waiting: Entry[] = []
  /** By id; one that is sent again under way is there twice. */
  #unconfirmed = new Map<string, Entry[]>()
  #count = 0
  #bytes = 0

  constructor({
    maxUnconfirmed,
    maxUnconfirmedBytes,
  }: {
    maxUnconfirmed: number
    maxUnconfirmedBytes: number
  }) {
    this.#most = maxUnconfirmed
    this.#mostBytes = maxUnconfirmedBytes
  }

  get unconfirmed(): number {
    return this.#count
  }

  get isEmpty(): boolean {
    return this.#count === 0 && this.#waiting.length === 0
  }

  /** The one that was sent first of those that are not acknowledged. */
  get first(): Entry | undefined {
    return this.#unconfirmed.values().next().value?.[0]
  }

  add(entries: readonly Entry[]): void {
    this.#waiting.push(...entries)
  }

  /** The next to be sent, if there is room for it: `alone`, when nothing else is under way. */
  next(alone: boolean): Entry | null {
    const entry = this.#waiting[0]
    if (entry === undefined) return null
    const full = this.#count >= this.#most || this.#bytes + entry.bytes > this.#mostBytes
    if (this.#count > 0 && (alone || full)) return null
    this.#waiting.shift()
    this.#count++
    this.#bytes += entry.bytes
    const same = this.#unconfirmed.get(entry.id)
    if (same === undefined) this.#unconfirmed.set(entry.id, [entry])
    else same.push(entry)
    return entry
  }

  /** Takes out what an answer is about; null if it is about nothing that is under way. */
  confirm(id: string): Entry | null {
    const same = this.#unconfirmed.get(id)
    const entry = same?.shift()
    if (entry === undefined) return null
    if (same!.length === 0) this.#unconfirmed.delete(id)
    this.#count--
    this.#bytes -= entry.bytes
    return entry
  }

  /** What was sent is to be sent again, before all that waits. */
  rewind(): void {
    this.#waiting = [...[...this.#unconfirmed.values()].flat(), ...this.#waiting]
    this.#unconfirmed = new Map()
    this.#count = 0
    this.#bytes = 0
  }

  /** Takes these out, wherever they are. */
  withdraw(entries: ReadonlySet<Entry>): void {
    this.#waiting = this.#waiting.filter((entry) => !entries.has(entry))
    for (const [id, same] of this.#unconfirmed) {
      const left = same.filter((entry) => !entries.has(entry))
      for (const entry of same) {
        if (!entries.has(entry)) continue
        this.#count--
        this.#bytes -= entry.bytes
      }
      if (left.length === 0) this.#unconfirmed.delete(id)
      else this.#unconfirmed.set(id, left)
    }
  }

  /** Takes out everything. */
  clear(): Entry[] {
    this.rewind()
    const all = this.#waiting
    this.#waiting = []
    return all
  }
}
