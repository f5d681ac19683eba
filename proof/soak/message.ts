import { createHash } from 'node:crypto'

/** What a handler does at its first attempt, or at each: `cut` ends its own session. */
export type Temper = 'throw' | 'hang' | 'die' | 'cut' | 'poison'

/** What is known of the payload of a message. Beside it, there is something to carry. */
export interface Body {
  /** Its number, which no other has. */
  readonly n: number
  /** Of varying length, and with what is hard to carry. */
  readonly text?: string
  readonly temper?: Temper | undefined
}

/**
 * How messages that are hard to bear are handled: one by one in a transaction, in batches, or without a transaction, by a call
 * of a service that may be away. In a key's messages all of these alternate. All others are handled one by one.
 */
export const topics = ['soak.single', 'soak.batch', 'soak.plain'] as const

/** That what was handled is what was published, as a number that Postgres and JavaScript both hold exactly. */
export function hashOf(body: Body): number {
  return createHash('sha256').update(JSON.stringify(body)).digest().readUIntBE(0, 6)
}

/** How often a message is attempted before it becomes a dead letter. */
export const maxAttempts = 6
