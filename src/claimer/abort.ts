/**
 * An abort that can be asked for a signal. Most handlers never look at theirs, and an `AbortController` costs more than
 * all the rest of a claim, so it is made when somebody does.
 */
export class Abort {
  #reason: Error | null = null
  #controller: AbortController | null = null
  #listeners: ((reason: Error) => void)[] = none

  get aborted(): boolean {
    return this.#reason !== null
  }

  get reason(): Error | null {
    return this.#reason
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#reason !== null) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  abort(reason: Error): void {
    if (this.#reason !== null) return
    this.#reason = reason
    this.#controller?.abort(reason)
    const listeners = this.#listeners
    this.#listeners = none
    for (const listener of listeners) listener(reason)
  }

  /** Calls `listener` once when it aborts, at once if it has. */
  listen(listener: (reason: Error) => void): void {
    if (this.#reason !== null) listener(this.#reason)
    else this.#listeners = [...this.#listeners, listener]
  }

  unlisten(listener: (reason: Error) => void): void {
    this.#listeners = this.#listeners.filter((other) => other !== listener)
  }

  /** What the work gives, unless this aborts first: then rejects with its reason, and the work is left to itself. */
  async unless<Result>(work: Promise<Result>): Promise<Result> {
    // A promise cannot be ended from outside: what it still does is of no interest.
    work.catch(() => {})
    if (this.#reason !== null) throw this.#reason
    let listener: (reason: Error) => void = () => {}
    try {
      const result = await new Promise<Result>((resolve, reject) => {
        this.listen((listener = reject))
        work.then(resolve, reject)
      })
      if (this.aborted) throw this.#reason!
      return result
    } finally {
      this.unlisten(listener)
    }
  }
}

const none: ((reason: Error) => void)[] = []
