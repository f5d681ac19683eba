import { type as ark } from 'arktype'
import pg from 'pg'
import * as v from 'valibot'
import { createClaimer, createOutbox, defineTopics, type, type StandardSchema } from 'twinbox'

/** valibot, arktype, a schema by hand, and none. */

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const same = <Whether extends true>(): Whether => true as Whether

const even: StandardSchema<number> = {
  '~standard': {
    version: 1,
    vendor: 'mine',
    validate: (value) =>
      Number(value) % 2 === 0 ? { value: Number(value) } : { issues: [{ message: 'odd', path: [] }] },
  },
}
const topics = defineTopics({
  'a.valibot': {
    schema: v.object({ id: v.string(), n: v.pipe(v.string(), v.transform(Number)) }),
    key: ({ id }) => id,
  },
  'b.arktype': { schema: ark({ to: 'string', 'cc?': 'string[]' }), key: ({ to }) => to },
  'c.hand': { schema: even },
  'd.none': { schema: type<{ readonly free: boolean }>(), key: ({ free }) => String(free) },
})
const client = new pg.Client()
const outbox = createOutbox({ topics })
await outbox.publish(client, { topic: 'a.valibot', payload: { id: '1', n: '2' } })
await outbox.publish(client, { topic: 'b.arktype', payload: { to: 'me', cc: ['you'] } })
await outbox.publish(client, { topic: 'c.hand', payload: 2 })
await outbox.publish(client, { topic: 'd.none', payload: { free: true } })
// @ts-expect-error n is text when it is published
await outbox.publish(client, { topic: 'a.valibot', payload: { id: '1', n: 2 } })
// @ts-expect-error to is missing
await outbox.publish(client, { topic: 'b.arktype', payload: { cc: [] } })
// @ts-expect-error no number
await outbox.publish(client, { topic: 'c.hand', payload: '2' })
// @ts-expect-error nothing else is known of it, but this
await outbox.publish(client, { topic: 'd.none', payload: { fre: true } })
createClaimer(
  { database: '', consumer: 'c', topics },
  {
    'a.valibot': ({ payload }) => same<Equal<typeof payload, { id: string; n: number }>>(),
    'b.arktype': ({ payload }) => same<Equal<typeof payload, { to: string; cc?: string[] }>>(),
    '*.hand': ({ payload }) => same<Equal<typeof payload, number>>(),
    'd.#': ({ payload }) => same<Equal<typeof payload, { readonly free: boolean }>>(),
  },
)
