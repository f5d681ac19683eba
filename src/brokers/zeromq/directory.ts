import { BrokerError } from '../../base/errors.ts'
import type { Consumers } from './addresses.ts'
import type { Settings } from './options.ts'

/** Who takes what, as it was when somebody asked last. */
export class Directory {
  readonly #settings: Settings
  #known: Consumers | null = null
  #askedAt = 0
  #asking: Promise<Consumers> | null = null

  constructor(settings: Settings) {
    this.#settings = settings
  }

  /** Asks again if the last answer is older than `refreshMs`. @throws BrokerError if there has never been an answer */
  async get(): Promise<Consumers> {
    const { moving, refreshMs } = this.#settings
    const old = moving && performance.now() - this.#askedAt > refreshMs
    return this.#known !== null && !old ? this.#known : this.ask()
  }

  /** Asks now; whoever asks meanwhile gets the same answer. @throws BrokerError if there has never been an answer */
  ask(): Promise<Consumers> {
    this.#asking ??= this.#ask().finally(() => (this.#asking = null))
    return this.#asking
  }

  async #ask(): Promise<Consumers> {
    const { consumers } = this.#settings
    if (consumers === null)
      throw new BrokerError(
        'config',
        'Nothing can be sent without the option consumers: it says who takes what.',
      )
    this.#askedAt = performance.now()
    try {
      this.#known = await consumers()
    } catch (error) {
      // Receivers seldom move, and the function will be asked again.
      if (this.#known === null) throw error
    }
    return this.#known
  }
}
