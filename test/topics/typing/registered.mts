import pg from 'pg'
import { createClaimer, createOutbox, defineTopics, type, type Outbox } from 'twinbox'

/** By declaration merging: for all outboxes and claimers that have no topics of their own. */

declare module 'twinbox' {
  interface TopicPayloads {
    'order.placed': { id: string; total: number }
    'order.paid': { id: string }
  }
}

const client = new pg.Client()
const outbox: Outbox = createOutbox()
await outbox.publish(client, { topic: 'order.placed', payload: { id: '1', total: 1 } })
// @ts-expect-error no such topic
await outbox.publish(client, { topic: 'order.plced', payload: { id: '1', total: 1 } })
// @ts-expect-error total is missing
await outbox.publish(client, { topic: 'order.placed', payload: { id: '1' } })
createClaimer(
  { database: '', consumer: 'c' },
  {
    'order.placed': ({ payload }) => payload.total.toFixed(),
    'order.*': (message) => (message.topic === 'order.placed' ? message.payload.total : message.payload.id),
  },
)
// @ts-expect-error no such topic
createClaimer({ database: '', consumer: 'c' }, { 'mail.due': () => {} })

// What is defined counts before.
const mail = createOutbox({ topics: defineTopics({ 'mail.due': { schema: type<string>() } }) })
await mail.publish(client, { topic: 'mail.due', payload: 'me' })
// @ts-expect-error not one of these
await mail.publish(client, { topic: 'order.placed', payload: { id: '1', total: 1 } })
