import type { Database } from '../../database/database.ts'
import { anyPartition } from '../../database/layout.ts'
import { movingSql, moveRefused } from '../../database/sql/moving.ts'
import { sqlstate } from '../../database/sqlstate.ts'
import { hintReceived } from '../../base/hints.ts'
import { limits } from '../../base/options.ts'
import type { Leaving, Move, Outlet, Route } from '../move.ts'
import type { Routing } from './routing.ts'

interface Parts {
  /** Of the inboxes. */
  readonly database: Database
  /** Who takes which topic: as it was last known, or looked up again. */
  readonly routing: (again: boolean) => Promise<Routing>
  readonly unroutable: 'fail' | 'drop'
}

/** A message, and who is to have it. */
interface Routed {
  readonly message: Leaving
  readonly takers: readonly string[]
}

/** Null if the inboxes stand in other tables than the outbox, or the relay's role may not write there. */
export async function movingTo(parts: Parts, outbox: Outlet): Promise<Move | null> {
  const ask = movingSql(outbox.database.schema).tables
  const [[from], [to]] = await Promise.all([
    outbox.database.keep(ask),
    parts.database.query(movingSql(parts.database.schema).tables),
  ])
  const same = from!.allowed && from!.tables === to!.tables
  if (!same) return null
  const route = new LastRoute()
  const told = (topics: readonly string[]): void => hint(parts.database, route.takersOf(topics))
  return Object.assign((batch: readonly Leaving[]) => move(parts, outbox, batch, route), {
    route: () => route.known,
    told,
  })
}

/** So many topics are looked up in a list. */
const topicsMax = 16

/** Who took the topics that were moved last. */
class LastRoute {
  #version = ''
  readonly #takers = new Map<string, readonly string[]>()

  add(version: string, routed: readonly Routed[]): void {
    if (version !== this.#version) this.#takers.clear()
    this.#version = version
    for (const { message, takers } of routed) {
      // What nobody takes is not lost without a word.
      if (takers.length === 0) continue
      this.#takers.delete(message.topic)
      this.#takers.set(message.topic, takers)
    }
    for (const topic of this.#takers.keys()) if (this.#takers.size > topicsMax) this.#takers.delete(topic)
  }

  get known(): Route | null {
    if (this.#takers.size === 0) return null
    return { version: this.#version, topics: [...this.#takers.keys()], takers: [...this.#takers.values()] }
  }

  takersOf(topics: readonly string[]): readonly string[] {
    return topics.flatMap((topic) => this.#takers.get(topic) ?? [])
  }
}

function hint({ schema }: Database, consumers: readonly string[]): void {
  for (const consumer of new Set(consumers)) hintReceived(schema, consumer)
}

async function move(
  { database, routing, unroutable }: Parts,
  outbox: Outlet,
  batch: readonly Leaving[],
  route: LastRoute,
): Promise<number> {
  let known = await routing(false)
  if (batch.some(({ topic }) => known.consumersOf(topic).length === 0)) known = await routing(true)
  const isWanted = ({ topic }: Leaving): boolean =>
    known.consumersOf(topic).length > 0 || unroutable === 'drop' || known.isUnwanted(topic)
  // What is refused holds back its key: what stands behind it does not go before it is known how.
  const first = batch.findIndex((message) => !isWanted(message))
  const routed = (first === -1 ? batch : batch.slice(0, first)).map((message): Routed => ({
    message,
    takers: known.consumersOf(message.topic),
  }))
  let moved = 0
  while (moved < routed.length) {
    const some = routed.slice(moved, moved + fitting(routed, moved))
    try {
      await outbox.database.keep(movingSql(outbox.database.schema).move, {
        ...valuesOf(some),
        server: outbox.server,
        version: known.version,
        firstPartition: anyPartition(),
      })
    } catch (error) {
      if (sqlstate(error) === moveRefused) await routing(true)
      // Of what has been moved it is to be told that it was.
      else if (moved === 0) throw error
      return moved
    }
    route.add(known.version, some)
    hint(
      database,
      some.flatMap(({ takers }) => takers),
    )
    moved += some.length
  }
  return moved
}

/** For a hundred consumers, a batch of the relay has a hundred times its rows and bytes. */
function fitting(routed: readonly Routed[], start: number): number {
  let [rows, bytes] = [0, 0]
  for (let index = start; index < routed.length; index++) {
    const { message, takers } = routed[index]!
    rows += takers.length
    bytes += takers.length * message.size
    if (index > start && (rows > limits.fanOutRows || bytes > limits.batchBytes)) return index - start
  }
  return routed.length - start
}

function valuesOf(routed: readonly Routed[]) {
  const fences = new Map(routed.map(({ message: { lane, fence } }) => [lane, fence]))
  return {
    lanes: routed.map(({ message }) => message.lane),
    seqs: routed.map(({ message }) => message.seq),
    ids: routed.map(({ message }) => message.id),
    takers: routed.map(({ takers }) => takers),
    heldLanes: [...fences.keys()],
    heldFences: [...fences.values()],
  }
}
