/** A message for each of so many is remembered, and then the oldest is forgotten. */
const most = 20_000

/**
 * Who has acknowledged messages that others have not: while one consumer is away, those that have a message are not sent it again
 * and again. It may be forgotten at any time; then the inbox drops the copies.
 */
export class Holders {
  readonly #of = new Map<string, Set<string>>()

  add(id: string, consumer: string): void {
    const holders = this.#of.get(id)
    if (holders !== undefined) {
      holders.add(consumer)
      return
    }
    if (this.#of.size >= most) this.#of.delete(this.#of.keys().next().value!)
    this.#of.set(id, new Set([consumer]))
  }

  has(id: string, consumer: string): boolean {
    return this.#of.get(id)?.has(consumer) ?? false
  }

  forget(id: string): void {
    this.#of.delete(id)
  }
}
