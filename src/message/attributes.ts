/**
 * What a sender says of its message in words that have a meaning: the attributes of a CloudEvent, and the properties of AMQP. They
 * are stored among the headers of the message, so that one of our own, of which nothing else says more, stores none of them.
 */

/** Before the name of an attribute of a CloudEvent, among the headers. */
export const attributePrefix = 'ce_'
/**
 * The properties of AMQP, by their names in AMQP 1.0 where both versions have them, behind a prefix. No attribute of a CloudEvent has a
 * hyphen in its name.
 */
export const properties = {
  contentEncoding: 'amqp-content-encoding',
  deliveryMode: 'amqp-delivery-mode',
  priority: 'amqp-priority',
  correlationId: 'amqp-correlation-id',
  replyTo: 'amqp-reply-to',
  expiration: 'amqp-expiration',
  messageId: 'amqp-message-id',
  timestamp: 'amqp-timestamp',
  type: 'amqp-type',
  userId: 'amqp-user-id',
  appId: 'amqp-app-id',
} as const

const propertyNames = new Set<string>(Object.values(properties))
/** Whether a header has the name of a property. */
export const isProperty = (name: string): boolean => name.startsWith('amqp-') && propertyNames.has(name)

/** Those among the headers of a message. */
export function attributesOf(headers: Readonly<Record<string, string>> | null): Record<string, string> {
  // Mostly there are no headers, and a map for each message would be felt.
  if (headers === null) return {}
  const found = new Map<string, string>()
  for (const name in headers) {
    if (name.startsWith(attributePrefix)) found.set(name.slice(attributePrefix.length), headers[name]!)
    else if (isProperty(name)) found.set(name, headers[name]!)
  }
  // Every event has it, nearly always the same one, and then it is not stored.
  if (found.has('id') && !found.has('specversion')) found.set('specversion', eventVersion)
  return found.size === 0 ? {} : Object.fromEntries(found)
}

export const eventVersion = '1.0'
