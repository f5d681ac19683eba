import { MessageError } from '../base/errors.ts'

/** How long a count is believed. A hard bound would make publishers wait for each other, each for the other's commit. */
const believedMs = 1000

/** Whether there is room for more messages in the outbox, by a count that is at most a second old. */
export class DepthLimit {
  readonly #max: number
  #count = 0
  #countedAt = -Infinity

  /** @param max how many may wait */
  constructor(max: number) {
    this.#max = max
  }

  /**
   * Makes room for some more, or refuses them. `count` counts what waits, up to `max`.
   * @throws MessageError `OUTBOX_FULL`
   */
  async take(more: number, count: (max: number) => Promise<number>): Promise<void> {
    if (performance.now() - this.#countedAt >= believedMs) {
      const counted = await count(this.#max)
      this.#count = counted
      this.#countedAt = performance.now()
    }
    if (this.#count >= this.#max) {
      throw new MessageError(
        'OUTBOX_FULL',
        'messages',
        `${this.#max} messages or more wait in the outbox, the limit of maxPending. Nothing was written. See what keeps the relays from sending: twinbox status, twinbox doctor.`,
      )
    }
    this.#count += more
  }
}
