import pg from 'pg'
import { createOutbox, withTransaction } from 'twinbox'

const database = process.env['DATABASE_URL'] ?? 'postgres://postgres:postgres@127.0.0.1:5432/postgres'
const pool = new pg.Pool({ connectionString: database })
const outbox = createOutbox()

const order = { id: `order-${Date.now()}`, total: 42 }
await withTransaction(pool, async (client) => {
  // Your statements go here, on this client: they and the message are committed together, or not at all.
  await outbox.publish(client, { topic: 'order.placed', key: order.id, payload: order })
})
console.log('published', order)
await pool.end()
