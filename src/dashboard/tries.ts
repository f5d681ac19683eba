/** Failed tries within a minute, after which nobody at that address is listened to; and from all addresses together. */
const triesMax = { address: 5, all: 50 }
const windowMs = 60_000

/** How often signing in has failed lately. */
export class Tries {
  readonly #failed: { readonly address: string; readonly at: number }[] = []

  may(address: string): boolean {
    const from = Date.now() - windowMs
    while (this.#failed.length > 0 && this.#failed[0]!.at < from) this.#failed.shift()
    const here = this.#failed.filter((each) => each.address === address)
    return here.length < triesMax.address && this.#failed.length < triesMax.all
  }

  failed(address: string): void {
    this.#failed.push({ address, at: Date.now() })
  }

  /** What was counted in advance did not fail. */
  succeeded(address: string): void {
    const index = this.#failed.findLastIndex((each) => each.address === address)
    if (index >= 0) this.#failed.splice(index, 1)
  }
}
