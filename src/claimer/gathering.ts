interface Entry<Item, Result> {
  readonly item: Item
  readonly resolve: (result: Result) => void
  readonly reject: (error: unknown) => void
}

/** Gathers what comes within one turn of the event loop, and writes it down in one statement; one at a time. */
export class Gathering<Item, Result> {
  readonly #write: (items: readonly Item[]) => Promise<readonly Result[]>
  #waiting: Entry<Item, Result>[] = []
  #writing = false

  /** @param write gives a result for each item, in their order */
  constructor(write: (items: readonly Item[]) => Promise<readonly Result[]>) {
    this.#write = write
  }

  add(item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ item, resolve, reject })
      if (!this.#writing) void this.#writeAll()
    })
  }

  async #writeAll(): Promise<void> {
    this.#writing = true
    while (this.#waiting.length > 0) {
      // Whatever else comes in this turn of the event loop comes along.
      await new Promise((resolve) => setImmediate(resolve))
      const entries = this.#waiting
      this.#waiting = []
      try {
        const results = await this.#write(entries.map(({ item }) => item))
        for (const [index, { resolve }] of entries.entries()) resolve(results[index]!)
      } catch (error) {
        for (const { reject } of entries) reject(error)
      }
    }
    this.#writing = false
  }
}
