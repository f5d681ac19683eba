import type { NewMessage } from '../../src/message/message.ts'
import { numbersPerLife, type LoadOptions, type Source, type Transaction } from './load.ts'
import type { Body, Temper } from './message.ts'
import { Random } from './random.ts'

const batchMax = 24
/** So many keys are hot: a third of all messages with a key are theirs. */
const hotKeys = 16
/** Of the ways in which messages are handled. */
const shares = { 'soak.single': 2, 'soak.batch': 1, 'soak.plain': 1 } as const
/** Of all messages, and how large these are: as large as a message of RabbitMQ or Kafka usually may be, less its headers. */
const oneInLarge = 1 / 1000
const largeLength = 1_000_000

/** Messages that are hard to bear: they end sessions and processes, are large, come twice, and are rolled back. */
export class HardSource implements Source {
  readonly persists = false
  readonly #options: LoadOptions
  readonly #random: Random
  #n: number

  constructor(options: LoadOptions, life: number) {
    this.#options = options
    this.#random = new Random(options.seed * 1000 + life)
    this.#n = life * numbersPerLife
  }

  proceed(): void {}

  next(atMost: number): Transaction[] {
    const random = this.#random
    const count = Math.min(random.whole(1, batchMax), atMost)
    const locked = random.chance(0.5)
    const messages = Array.from({ length: count }, () => this.#message(locked))
    const fails = random.chance(0.05)
    return [{ messages, locked, fails, part: random.chance(0.05) ? this.#message(locked) : null }]
  }

  #message(locked: boolean): NewMessage {
    const random = this.#random
    const n = this.#n++
    const keyed = random.chance(0.5)
    // Those that are locked have keys of their own: only then all transactions of a key are.
    const name = random.chance(1 / 3)
      ? `hot${random.whole(1, hotKeys)}`
      : `${random.whole(1, this.#options.keys)}`
    const topic = random.weighted(shares)
    const temper = this.#temper()
    const length = random.chance(oneInLarge) ? largeLength : random.whole(0, 300)
    const payload: Body = {
      n,
      text: `Ünïcode \u2028 "${'x'.repeat(length)}"`,
      ...(temper === undefined ? {} : { temper }),
    }
    return {
      topic,
      payload,
      key: keyed ? `${locked ? 'locked' : 'free'} ${name}` : null,
      ...(random.chance(0.1)
        ? { dedupeKey: `d${Math.floor(Date.now() / 2000)}-${random.whole(0, 200)}` }
        : {}),
    }
  }

  #temper(): Temper | undefined {
    const random = this.#random
    const { oneInDies } = this.#options
    if (random.chance(0.004)) return 'throw'
    if (random.chance(0.0002)) return 'hang'
    if (random.chance(0.0002)) return 'poison'
    if (random.chance(0.0005)) return 'cut'
    return oneInDies > 0 && random.chance(1 / oneInDies) ? 'die' : undefined
  }
}
