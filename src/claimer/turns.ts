/** What waits to be handled: of one topic whoever came first, and the topics in turn. */
export class Turns<Item> {
  size = 0
  /** The topic whose turn it is stands first. None is empty. */
  readonly #topics = new Map<string, Item[]>()

  push(topic: string, item: Item): void {
    const items = this.#topics.get(topic)
    if (items === undefined) this.#topics.set(topic, [item])
    else items.push(item)
    this.size++
  }

  /** Before the others of its topic. */
  unshift(topic: string, item: Item): void {
    const items = this.#topics.get(topic)
    if (items === undefined) this.#topics.set(topic, [item])
    else items.unshift(item)
    this.size++
  }

  shift(): Item | undefined {
    for (const [topic, items] of this.#topics) {
      const item = items.shift()
      this.size--
      if (items.length === 0) this.#topics.delete(topic)
      else if (this.#topics.size > 1) {
        this.#topics.delete(topic)
        this.#topics.set(topic, items)
      }
      return item
    }
    return undefined
  }

  of(topic: string): readonly Item[] {
    return this.#topics.get(topic) ?? []
  }

  /** Takes of one topic as many as may be taken. */
  take(topic: string, limit: number, mayBeTaken: (item: Item) => boolean): Item[] {
    const taken: Item[] = []
    const left = this.of(topic).filter((item) => {
      if (taken.length >= limit || !mayBeTaken(item)) return true
      taken.push(item)
      return false
    })
    this.#keep(topic, left, taken.length)
    return taken
  }

  remove(topic: string, item: Item): void {
    const left = this.of(topic).filter((other) => other !== item)
    this.#keep(topic, left, this.of(topic).length - left.length)
  }

  #keep(topic: string, left: Item[], gone: number): void {
    if (gone === 0) return
    this.size -= gone
    if (left.length === 0) this.#topics.delete(topic)
    else this.#topics.set(topic, left)
  }
}
