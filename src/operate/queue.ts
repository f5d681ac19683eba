import type { Database } from '../database/database.ts'
import { OptionError } from '../base/errors.ts'
import { readParkedKeys, type ParkedKey } from './parked.ts'
import { searchMessages, type FoundMessage } from './search.ts'

/** What waits of one key, in the order in which it is handled. */
export interface KeyQueue {
  /** If the key is held back: behind what, why and until when. */
  readonly parked: ParkedKey | null
  /** The first of those that wait, in their order. */
  readonly messages: readonly FoundMessage[]
  /** Whether more wait, or may. */
  readonly more: boolean
}

/**
 * Reads the queue of one key at one consumer, or in the outbox: whether it is held back, and the messages that wait, in order.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function readKeyQueue(
  database: Database,
  { consumer, key }: { readonly consumer: string | null; readonly key: string },
  limit = 100,
): Promise<KeyQueue> {
  if (key === undefined) throw new OptionError('key', 'key is required.')
  const { keys } = await readParkedKeys(database, { consumer, key })
  const states = ['parked', 'unhandled', consumer === null ? 'outbox' : 'inbox'] as const
  const found = await searchMessages(database, { consumer, key, states }, { limit: limit + 1 })
  // All of a box have their places from one sequence, wherever they wait.
  const messages = found.messages.toSorted((a, b) => a.place - b.place)
  return {
    parked: keys[0] ?? null,
    messages: messages.slice(0, limit),
    more: messages.length > limit || found.beyond.length > 0,
  }
}
