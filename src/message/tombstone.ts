import type { MessageErrorCode } from '../base/errors.ts'
import type { MessageFields } from './message.ts'

/** By which a tombstone is known in the tables and at brokers that have none, together with a payload of no bytes. */
export const tombstoneType = 'application/vnd.twinbox.tombstone'

/**
 * What a message has that deletes: `publish(trx, { topic, key, ...tombstone })`. Kafka gets a record without a value, by which
 * compaction removes what has its key; other brokers a message of no bytes with this content type. It needs a key.
 */
export const tombstone: { readonly payload: Uint8Array; readonly contentType: string } = Object.freeze({
  payload: new Uint8Array(0),
  contentType: tombstoneType,
})

/** Whether a message is one, published or received from Kafka: a body that is only empty is none. */
export const isTombstone = (
  message: Pick<MessageFields, 'contentType'> & { readonly payload: unknown },
): boolean =>
  message.contentType === tombstoneType &&
  message.payload instanceof Uint8Array &&
  message.payload.byteLength === 0

/**
 * What is wrong with one that is to be published: code, path and text. Kafka deletes by the key, and without one a compacted topic
 * refuses the record, when it is too late to tell whoever has published it.
 */
export function faultOfTombstone(
  contentType: string | undefined,
  bytes: Uint8Array,
  key: unknown,
): [MessageErrorCode, string, string] | null {
  if (contentType !== tombstoneType) return null
  if (bytes.byteLength > 0)
    return [
      'PAYLOAD_TYPE',
      'payload',
      `has ${bytes.byteLength} bytes, but a tombstone has none. Publish { ...tombstone }.`,
    ]
  if (key === undefined || key === null)
    return ['INVALID_KEY', 'key', 'is missing, but a tombstone deletes what has its key. Give it one.']
  return null
}
