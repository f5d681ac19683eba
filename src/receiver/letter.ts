import type { IncomingMessage } from '../brokers/broker.ts'
import type { Database } from '../database/database.ts'
import { cut } from '../database/gate.ts'
import { pieces } from '../database/sql/parameter.ts'
import { refusedSql } from '../database/sql/refused.ts'
import { newMessageId, toMessageId } from '../message/message.ts'
import { limits } from '../base/options.ts'
import { digest, placeOf } from './place.ts'

/** A delivery that was refused, as it becomes a dead letter: cut and cleaned, so that it fits whatever was delivered. */
export interface Letter {
  readonly id: string
  /** By which it is known when it is delivered again. */
  readonly mark: string
  /** Whether it may have been delivered before. */
  readonly again: boolean
  readonly topic: string
  readonly key: string | null
  readonly headers: string
  readonly body: Uint8Array
  readonly contentType: string | null
  readonly reason: string
}

const reasonBytes = 2000
const headerNameBytes = 100
const headerValueBytes = 1000

/**
 * The body is kept whole if it is no larger than a receiver takes, since a redrive hands it to a handler; else its
 * beginning, and the reason tells the true length.
 */
export function toLetter(incoming: IncomingMessage, reason: string, maxPayloadBytes: number): Letter {
  const { topic, key, contentType, redelivered } = incoming
  const headers = { ...incoming.headers, ...incoming.properties }
  const place = placeOf(incoming)
  const body =
    incoming.body.byteLength <= maxPayloadBytes
      ? incoming.body
      : incoming.body.subarray(0, limits.refusedBytes)
  const known = toMessageId(`refused ${place ?? digest(incoming)}`)
  const kept = cutHeaders(headers)
  const lost = [
    lossOf('topic', topic, limits.keyBytes),
    lossOf('key', key ?? '', limits.keyBytes),
    lossOf('content type', contentType ?? '', limits.receivedTypeBytes),
    Object.keys(headers).length > Object.keys(kept).length ? `of ${Object.keys(headers).length} headers` : '',
    body === incoming.body ? '' : `a body of ${incoming.body.byteLength} bytes`,
  ].filter((loss) => loss !== '')
  return {
    // The place is the same for every redelivery; without one, two that look alike are two.
    id: place === null ? newMessageId() : toMessageId(`letter ${place}`),
    mark: known,
    again: redelivered || place !== null,
    topic: cut(topic, limits.keyBytes),
    key: key === null ? null : cut(key, limits.keyBytes),
    headers: JSON.stringify(kept),
    body,
    contentType: contentType === null ? null : cut(contentType, limits.receivedTypeBytes),
    reason: cut(
      lost.length === 0 ? reason : `${cut(reason, 1500)} Cut here: ${lost.join(', ')}.`,
      reasonBytes,
    ),
  }
}

/** For a letter that the database refuses: what most likely is to blame is left out. */
export const withoutHeaders = (letter: Letter, because: string): Letter => ({
  ...letter,
  key: null,
  headers: '{}',
  contentType: null,
  reason: cut(`${cut(letter.reason, reasonBytes / 2)} ${because}`, reasonBytes),
})

/** Where it stood and why it was refused, and nothing that was sent. */
export const withoutBody = (letter: Letter, because: string): Letter => ({
  ...withoutHeaders(letter, because),
  topic: 'unknown',
  body: Buffer.alloc(0),
})

const lossOf = (what: string, text: string, maxBytes: number): string =>
  text.length > maxBytes || Buffer.byteLength(text) > maxBytes
    ? `a ${what} of ${Buffer.byteLength(text)} bytes`
    : ''

function cutHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  const entries: [string, string][] = []
  let bytes = 0
  for (const [name, value] of Object.entries(headers)) {
    const entry: [string, string] = [cut(name, headerNameBytes), cut(value, headerValueBytes)]
    bytes += entry[0].length + entry[1].length
    if (entries.length >= limits.headerCount || bytes > limits.headersBytes) break
    entries.push(entry)
  }
  return Object.fromEntries(entries)
}

/** Writes them among the dead letters, in one statement. After its commit the broker may forget them. */
export async function setAside(database: Database, consumer: string, all: readonly Letter[]): Promise<void> {
  const letters = [...new Map(all.map((letter) => [letter.id, letter])).values()]
  await database.query(refusedSql(database.schema).refuse, {
    consumer,
    ids: letters.map(({ id }) => id),
    marks: letters.map(({ mark }) => mark),
    again: letters.map(({ again }) => again),
    topics: letters.map(({ topic }) => topic),
    keys: letters.map(({ key }) => key),
    headers: letters.map(({ headers }) => headers),
    ...pieces(letters.map(({ body }) => body)),
    contentTypes: letters.map(({ contentType }) => contentType),
    reasons: letters.map(({ reason }) => reason),
  })
}
