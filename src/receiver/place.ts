import { createHash } from 'node:crypto'
import type { IncomingMessage } from '../brokers/broker.ts'

/**
 * What a delivery is known by that has no identity of its own: its place at the broker, when it was put there, and what it
 * is. A place without the id of its topic (Kafka before 2.8) is not enough: a topic that is deleted and made again, a mirror and
 * another cluster begin with the same places, and what came then was dropped as seen before. Nor is one with it, where a log has
 * lost its end and grown anew. Null where the broker has no places.
 */
export const placeOf = (incoming: IncomingMessage): string | null =>
  incoming.position === null ? null : `${incoming.position} ${incoming.placedAt ?? ''} ${digest(incoming)}`

/** Without the headers: RabbitMQ counts the deliveries in one. */
export function digest({ topic, key, body }: IncomingMessage): string {
  const hash = createHash('sha256').update(JSON.stringify([topic, key]))
  return hash.update(body).digest('hex')
}
