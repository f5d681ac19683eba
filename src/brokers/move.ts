import type { Database } from '../database/database.ts'
import type { Broker } from './broker.ts'

/** The outbox of a relay, and the server on which the relay holds its lanes. */
export interface Outlet {
  readonly database: Database
  readonly server: string
}

/** A message in the outbox, as its relay has found it there: without its content. */
export interface Leaving {
  readonly lane: number
  readonly seq: number
  readonly id: string
  readonly topic: string
  /** In bytes. */
  readonly size: number
  /** Under which its lane was read. */
  readonly fence: number
}

/** Topics, and who takes each, for a read that moves what it finds by itself: `readAndMove` of database/sql/moving.ts. */
export interface Route {
  readonly topics: readonly string[]
  readonly takers: readonly (readonly string[])[]
  /** Of what was subscribed to when the takers were chosen. */
  readonly version: string
}

export interface Move {
  /**
   * Takes messages out of the outbox and brings them to where they are received, in one commit, or in several in their order. Returns
   * how many, from the first on: those of which there is nothing to ask. The others are still where they were.
   */
  (batch: readonly Leaving[]): Promise<number>
  /** Of the topics of what was moved last; null if nothing is known. */
  route(): Route | null
  /** Messages of these topics have been moved along that route. */
  told(topics: readonly string[]): void
}

/** Null if its messages are not in the tables of this outbox, or must not be moved there. */
export type Mover = (outbox: Outlet) => Promise<Move | null>

/**
 * What a broker of ours can do beside `send`. By the broker and its `send`, and no property of it: whoever wraps a broker, or puts a
 * `send` of their own in its place, is to see each message.
 */
const movers = new WeakMap<Broker, { readonly send: unknown; readonly mover: Mover }>()

const sendOf = (broker: Broker): unknown => Reflect.get(broker, 'send')

export function moverOf(broker: Broker): Mover | null {
  const known = movers.get(broker)
  return known !== undefined && known.send === sendOf(broker) ? known.mover : null
}

export function withMover(broker: Broker, mover: Mover): Broker {
  movers.set(broker, { send: sendOf(broker), mover })
  return broker
}
