import { expect, test } from 'vitest'
import { createClaimer } from '../../src/claimer/claimer.ts'
import { receive } from '../../src/database/inbox.ts'
import type { HandlerContext, Message, TransactionContext } from '../../src/index.ts'
import { consumer, database, events, inbox, useInbox } from '../support/inbox.ts'
import { inboxMessage } from '../support/messages.ts'

/** What a handler is given: it may do with that what it likes. */

useInbox()

test.each([
  { transaction: false, key: 'k' },
  { transaction: false, key: null },
  { transaction: true, key: null },
])(
  'an attempt sees what was published, whatever those before it have made of it (transaction: $transaction, key $key)',
  async ({ transaction, key }) => {
    const seen: string[] = []
    const handle = (message: Message): void => {
      seen.push(JSON.stringify(message))
      for (const at of [message.publishedAt, message.receivedAt, message.expiresAt]) at?.setTime(0)
      const changed = message as { payload: { list: number[] }; headers: Record<string, string> }
      changed.payload.list.push(3)
      changed.headers['mine'] = 'mine'
      if (seen.length < 3) throw new Error('not yet')
    }
    const claimer = createClaimer(
      { database: database.url, consumer, backoffMsMin: 1, backoffMsMax: 2, onEvent: events.onEvent },
      { t: transaction ? { handle } : { transaction, handle } },
    )
    await claimer.start()
    const [publishedAt, expiresAt] = [new Date('2026-01-02T03:04:05Z'), new Date('2126-01-02T03:04:05Z')]
    await receive(inbox, [
      inboxMessage({
        consumer,
        key,
        publishedAt,
        expiresAt,
        payload: '{"list":[1,2]}',
        headers: '{"h":"1"}',
      }),
    ])
    await events.next('handled')
    await claimer.stop()
    expect(seen).toEqual([seen[0], seen[0], seen[0]])
    expect(JSON.parse(seen[0]!)).toMatchObject({
      ...{ publishedAt: publishedAt.toISOString(), expiresAt: expiresAt.toISOString() },
      ...{ payload: { list: [1, 2] }, headers: { h: '1' } },
    })
    expect(Date.parse((JSON.parse(seen[0]!) as { receivedAt: string }).receivedAt)).toBeGreaterThan(0)
  },
)

test.each([false, true])('a context can be spread and wrapped (transaction: %s)', async (transaction) => {
  let told: unknown
  const look = (context: HandlerContext): void => {
    const spread = { ...context, more: 1 }
    const wrapped = new Proxy(context, {})
    told = [
      Object.keys(spread).toSorted(),
      spread.signal === context.signal,
      wrapped.signal === spread.signal,
    ]
  }
  const claimer = createClaimer(
    { database: database.url, consumer, onEvent: events.onEvent },
    {
      t: transaction
        ? async (_: Message, context: TransactionContext<unknown>) => {
            look(context)
            const { trx, client } = new Proxy({ ...context }, {})
            expect([trx.isTransaction, (await client.query('select 1 as one')).rows]).toEqual([
              true,
              [{ one: 1 }],
            ])
          }
        : { transaction: false, handle: (_: Message, context: HandlerContext) => look(context) },
    },
  )
  await claimer.start()
  await receive(inbox, [inboxMessage({ consumer, key: null, publishedAt: new Date() })])
  await events.next('handled')
  await claimer.stop()
  const names = ['attempt', 'fence', 'idempotencyKey', 'more', 'signal']
  expect(told).toEqual([transaction ? [...names, 'client', 'trx'].toSorted() : names, true, true])
})
