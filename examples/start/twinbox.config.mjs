import { defineConfig } from 'twinbox'
import { postgres } from 'twinbox/postgres'

const database = process.env['DATABASE_URL'] ?? 'postgres://postgres:postgres@127.0.0.1:5432/postgres'

export default defineConfig({
  database,
  // From the outbox straight into inboxes in Postgres. Or rabbitmq({ url }) of twinbox/rabbitmq, or kafka({ brokers }) of twinbox/kafka.
  broker: () => postgres({ database }),
  consumers: {
    // Each consumer gets every message of its topics once, however many workers it has.
    billing: {
      topics: ['order.*'],
      handlers: {
        // What it writes with context.client (pg) or context.trx (Kysely) is committed together with the completion, or not at all.
        'order.placed': (message, context) => {
          console.log(`handled ${message.topic} (attempt ${context.attempt}):`, message.payload)
        },
      },
    },
  },
})
