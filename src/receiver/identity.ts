import type { ForeignMessage, IncomingMessage } from '../brokers/broker.ts'
import { isOutboxId, toMessageId } from '../message/message.ts'
import { placeOf } from './place.ts'
import { saidBy, type Event } from './event.ts'

/** What makes a message of another system a message: above all an identity that is the same for every redelivery. */
export interface Identity {
  /** Of this text the message's id is made, the same for the same text. */
  readonly id: string
  /** Ordering key. @default what the broker says */
  readonly key?: string | null | undefined
}

export type Identify = (incoming: ForeignMessage) => Identity | null

/** Whether an outbox of ours says that it has made it. */
export const isOwn = (event: Event, sources: readonly string[]): boolean =>
  event.complete &&
  sources.includes(event.attributes.get('source') ?? '') &&
  isOutboxId(event.attributes.get('id')!)

/** Each kind of identity for itself, and its parts told apart: or who may choose one could choose another's. */
export function identityOf(
  incoming: IncomingMessage,
  event: Event,
  own: boolean,
  identify: Identify | undefined,
): { readonly id: string; readonly key: string | null } | null {
  const made = (...parts: readonly string[]): string => toMessageId(JSON.stringify(parts))
  const { attributes } = event
  if (event.complete) {
    const id = attributes.get('id')!
    const key = attributes.get('partitionkey') ?? incoming.key
    // Of other senders, only source and id together are an identity.
    return { id: own ? id.toLowerCase() : made('event', attributes.get('source') ?? '', id), key }
  }
  if (identify !== undefined) {
    const given = identify({ ...incoming, attributes: saidBy(event, incoming) })
    if (given === null || typeof given.id !== 'string' || given.id === '') return null
    return { id: made('identify', given.id), key: given.key === undefined ? incoming.key : given.key }
  }
  const named = incoming.headers['message-id']
  if (named !== undefined) return { id: made('message-id', incoming.topic, named), key: incoming.key }
  const place = placeOf(incoming)
  return place === null ? null : { id: made('place', incoming.topic, place), key: incoming.key }
}
