import { expect, it } from 'vitest'
import type { Broker } from '../../../src/brokers/broker.ts'
import { collector, idOf, outgoing, statuses, subscribe, type Collector } from '../contract.ts'
import { never, type Fixture } from './fixture.ts'

/** Both client libraries in one fleet, as while one takes the other's place. */
export function kafkaTogether({ make, createTopic }: Fixture): void {
  const clients = ['kafkajs', 'platformatic'] as const

  it.each([clients, clients.toReversed()])(
    'shares a group between both libraries, the first by %s, without a loss when that one stops',
    async (...order) => {
      const topic = await createTopic({ numPartitions: 4 })
      const brokers = order.map((client) => make({ client }))
      const inboxes = brokers.map(() => collector())
      const all = (): Set<string> => new Set(inboxes.flatMap((inbox) => inbox.ids()))
      const sent = Array.from({ length: 400 }, (_, index) => outgoing(topic, { key: `key-${index % 40}` }))
      const first = await subscribe(brokers[0]!, 'billing', [topic], inboxes[0]!.onBatch)
      await subscribe(brokers[1]!, 'billing', [topic], inboxes[1]!.onBatch)
      let from = 0
      // Whoever joins gets its share when the others have noticed.
      while (inboxes.some((inbox) => inbox.received.length === 0)) {
        const batch = sent.slice(from, (from = Math.min(from + 20, 200)))
        for (const one of batch.length > 0 ? [batch] : [])
          expect(new Set(statuses(await brokers[from % 2]!.send(one, { signal: never })))).toEqual(
            new Set(['sent']),
          )
        const count = from
        await expect.poll(() => all().size).toBe(count)
        if (from === 200) break
      }
      expect(inboxes.map((inbox) => inbox.received.length > 0)).toEqual([true, true])
      await first.stop()
      await brokers[0]!.send(sent.slice(from), { signal: never })
      await expect.poll(() => all().size, { timeout: 20_000 }).toBe(400)
      expect(all()).toEqual(new Set(sent.map(({ id }) => id)))
      for (const inbox of inboxes)
        expectOrder(
          inbox,
          sent.map(({ id }) => id),
        )
    },
  )

  it('finds a record at the same place, and a key in the same partition', async () => {
    const topic = await createTopic({ numPartitions: 7 })
    const byClient = await Promise.all(
      clients.map(async (client) => {
        const broker: Broker = make({ client })
        const sent = Array.from({ length: 50 }, (_, index) => outgoing(topic, { key: `schlüssel-${index}` }))
        await broker.send(sent, { signal: never })
        const inbox = collector()
        await subscribe(broker, `billing-${client}`, [topic], inbox.onBatch)
        await inbox.untilIds(100)
        return inbox
      }),
    )
    const [one, other] = byClient.map((inbox) =>
      inbox.received.map(({ position, placedAt, key }) => `${position} ${placedAt} ${key}`).toSorted(),
    )
    expect(one).toEqual(other)
    const partitionsOf = new Map<string | null, Set<string>>()
    for (const { key, position } of byClient[0]!.received) {
      const found = partitionsOf.get(key) ?? new Set()
      partitionsOf.set(key, found.add(position!.split('/').at(-2)!))
    }
    expect([...partitionsOf.values()].filter(({ size }) => size > 1)).toEqual([])
  })
}

/** Of each key, what one receiver got came in the order in which it was sent. */
function expectOrder(inbox: Collector, order: readonly string[]): void {
  const place = new Map(order.map((id, index) => [id, index]))
  const last = new Map<string | null, number>()
  for (const message of inbox.firsts()) {
    const at = place.get(idOf(message))!
    expect(at).toBeGreaterThan(last.get(message.key) ?? -1)
    last.set(message.key, at)
  }
}
