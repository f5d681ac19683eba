import type pg from 'pg'
import { destroy } from './pool.ts'

/** How many of a pool's connections one of several that share it may use at a time: never all, so that who is stuck sticks alone. */
export class Share {
  readonly #pool: () => pg.Pool
  readonly #most: number
  readonly #used = new Set<pg.PoolClient>()
  readonly #waiting: (() => void)[] = []
  #taken = 0
  #isClosed = false

  constructor(pool: () => pg.Pool, most: number) {
    this.#pool = pool
    this.#most = most
  }

  /** A client, which counts until it is released. */
  async connect(): Promise<pg.PoolClient> {
    if (this.#isClosed) throw new Error('Cannot use a pool after calling end on the pool')
    if (this.#taken < this.#most) this.#taken++
    // Whoever gives a place back gives it to the next one.
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
    try {
      const client = await this.#pool().connect()
      const release = client.release.bind(client)
      client.release = (spent) => {
        this.#used.delete(client)
        this.#free()
        release(spent)
      }
      this.#used.add(client)
      return client
    } catch (error) {
      this.#free()
      throw error
    }
  }

  /** Breaks the connections that it uses, whatever they do, and those that nobody uses, which may only look sound. */
  tearDown(): void {
    const { _idle: idle } = this.#pool() as unknown as { _idle: { client: pg.PoolClient }[] }
    for (const client of [...this.#used, ...idle.map((item) => item.client)]) destroy(client)
  }

  /** Resolves when it uses none any more, which after `ms` is made so. */
  async close(ms: number): Promise<void> {
    this.#isClosed = true
    const deadline = performance.now() + ms
    while (this.#used.size > 0 && performance.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 10))
    for (const client of this.#used) destroy(client)
  }

  #free(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#taken--
    else next()
  }
}
