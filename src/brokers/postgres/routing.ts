import type { Subscription } from '../../database/sql/subscription.ts'
import { topicMatches } from '../../message/message.ts'

/** Who takes which topic, by all that is subscribed to. */
export interface Routing {
  readonly version: string
  consumersOf(this: void, topic: string): readonly string[]
  /** Whether those who were subscribed to it have had enough of it: it is no oversight that nobody takes it. */
  isUnwanted(this: void, topic: string): boolean
}

/** A topic for each customer, say, must not fill the memory. */
const topicsKnownMax = 10_000

export function toRouting(subscriptions: readonly Subscription[]): Routing {
  const known = new Map<string, readonly string[]>()
  return {
    version: subscriptions[0]?.version ?? '0',
    consumersOf(topic) {
      let consumers = known.get(topic)
      if (consumers === undefined) {
        if (known.size >= topicsKnownMax) known.clear()
        const taking = subscriptions.filter(({ pattern, ended }) => !ended && topicMatches(pattern, topic))
        known.set(topic, (consumers = [...new Set(taking.map(({ consumer }) => consumer))]))
      }
      return consumers
    },
    // Who no longer takes all has said nothing of this one.
    isUnwanted: (topic) =>
      subscriptions.some(({ pattern, ended }) => ended && pattern !== '#' && topicMatches(pattern, topic)),
  }
}
