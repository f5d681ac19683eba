import type { Database } from '../database/database.ts'
import { privacySql } from '../database/sql/privacy.ts'
import { OptionError } from '../base/errors.ts'
import { refuseUnknown } from '../base/options.ts'
import { consumerColumn, isMessageId, textOrNull } from './filter.ts'

/** Whose data is meant: exactly one of `key`, `id` and `dedupeKey`, and where. */
export interface Target {
  /** All messages of this key. */
  readonly key?: string | undefined
  /** The message with this id. */
  readonly id?: string | undefined
  /** The messages that were published with this dedupe key; known as long as its window lasts. */
  readonly dedupeKey?: string | undefined
  /** Only at this consumer; null for the outbox. @default everywhere */
  readonly consumer?: string | null | undefined
  /** Only of this topic. @default all */
  readonly topic?: string | undefined
}

/** A target as the statements take it. */
export interface Matching {
  readonly key: string | null
  readonly ids: readonly string[]
  readonly consumer: string | null
  readonly topic: string | null
  /** Whose messages are still to be looked up. */
  readonly dedupeKey: string | null
}

/** @throws OptionError */
export function readTarget(where: string, target: Target): Matching {
  refuseUnknown(where, target, ['key', 'id', 'dedupeKey', 'consumer', 'topic'])
  const { key, id, dedupeKey } = target
  if ([key, id, dedupeKey].filter((each) => each !== undefined).length !== 1)
    throw new OptionError('key', 'Exactly one of key, id and dedupeKey is required.')
  if (id !== undefined && !isMessageId(id))
    throw new OptionError('id', 'id must be the id of a message, a UUID.')
  return {
    key: textOrNull('key', key),
    ids: id === undefined ? [] : [id],
    consumer: consumerColumn(target.consumer),
    topic: textOrNull('topic', target.topic),
    dedupeKey: textOrNull('dedupeKey', dedupeKey),
  }
}

/** With the ids that can be found out now: of the messages of a key, and of a dedupe key. */
export async function withIds(
  query: Database['query'],
  schema: string,
  target: Matching,
): Promise<Omit<Matching, 'dedupeKey'>> {
  const sql = privacySql(schema)
  const { dedupeKey, ...matching } = target
  const { topic } = matching
  const known = new Set(matching.ids)
  if (dedupeKey !== null)
    for (const { id } of await query(sql.idsOfDedupeKey, { dedupeKey, topic })) known.add(id)
  for (const { id } of await query(sql.ids, { ...matching, ids: [...known] })) if (id !== null) known.add(id)
  return { ...matching, ids: [...known] }
}
