import { randomBytes } from 'node:crypto'
import type { Scratch } from '../scratch.ts'

/** A database for one lap. */
export interface Ground {
  readonly name: string
  readonly url: string
}

/** Databases of a race, on the scenario's server: prepared once for each entrant, copied for each lap. */
export class Grounds {
  readonly #scratch: Scratch
  readonly #prepared = new Map<string, Ground>()
  readonly #made = new Set<string>()

  constructor(scratch: Scratch) {
    this.#scratch = scratch
  }

  /** A copy of what `prepare` has made, the same each time. */
  async fresh(what: string, prepare: (url: string) => Promise<void>): Promise<Ground> {
    let prepared = this.#prepared.get(what)
    if (prepared === undefined) {
      prepared = await this.#create()
      await prepare(prepared.url)
      this.#prepared.set(what, prepared)
    }
    await this.#disconnect(prepared)
    const ground = await this.#create(prepared)
    // Every lap begins right after a checkpoint, so that all pay alike for the first change of a page after it.
    await this.#scratch.query('checkpoint')
    return ground
  }

  async drop(ground: Ground): Promise<void> {
    await this.#scratch.query(`drop database if exists ${ground.name} with (force)`)
    this.#made.delete(ground.name)
  }

  async dropAll(): Promise<void> {
    for (const name of this.#made) await this.#scratch.query(`drop database if exists ${name} with (force)`)
    this.#made.clear()
  }

  async #create(from?: Ground): Promise<Ground> {
    const name = `${this.#scratch.name}_${randomBytes(3).toString('hex')}`
    this.#made.add(name)
    // Without `file_copy`, which Postgres 15 has, a million messages would go through the WAL each time.
    const strategy = this.#scratch.version >= 15 ? 'strategy file_copy' : ''
    await this.#scratch.query(
      `create database ${name}${from === undefined ? '' : ` template ${from.name} ${strategy}`}`,
    )
    const url = Object.assign(new URL(this.#scratch.url), { pathname: `/${name}` }).toString()
    return { name, url }
  }

  /** A database is copied only while nobody uses it. */
  async #disconnect({ name }: Ground): Promise<void> {
    await this.#scratch.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [
      name,
    ])
    await this.#scratch.until(
      'Waiting for clients to go',
      'select count(*) = 0 as done from pg_stat_activity where datname = $1',
      [name],
    )
  }
}
