import { describe, expect, test } from 'vitest'
import { curveKeyPair } from 'zeromq'
import type { SendOutcome } from '../../../src/brokers/broker.ts'
import type { ZeromqConsumers } from '../../../src/brokers/zeromq/zeromq.ts'
import { startProxy } from '../../../proof/stage/proxy.ts'
import { collector, errorOf, idOf, outgoing, sendAll, statuses } from '../collector.ts'
import { never, newAddress, useFixture } from './fixture.ts'

const { make, listen, router } = useFixture()

const topics = ['#']
const billing = (...addresses: string[]): ZeromqConsumers => ({ billing: { addresses, topics } })
const keyed = (count: number) => Array.from({ length: count }, () => outgoing('a', { key: 'one' }))
const all = (outcomes: readonly SendOutcome[]): string => [...new Set(statuses(outcomes))].join()

describe('the next address', () => {
  test('takes over when a receiver goes, from the first message without an answer on, in order', async () => {
    const [first, second] = [await newAddress(), await newAddress()]
    const sent = keyed(600)
    const ids = sent.map(({ id }) => id)
    const here = collector()
    const there = collector()
    const going = await listen(first, here.onBatch, { batchSize: 20 })
    await listen(second, there.onBatch, { batchSize: 20 })
    const sending = make({ consumers: billing(first, second), maxUnconfirmed: 100 }).send(sent, {
      signal: never,
    })
    await here.until((received) => received.length >= 100)
    await going.close()
    expect(all(await sending)).toBe('sent')
    // Each is a run without a gap, and the second begins at the latest where the first ended.
    expect(here.ids()).toEqual(ids.slice(0, here.ids().length))
    expect(there.ids()).toEqual(ids.slice(ids.indexOf(there.ids()[0]!)))
    expect(ids.indexOf(there.ids()[0]!)).toBeLessThanOrEqual(here.ids().length)
    // And before it no more than what was under way.
    expect(here.ids().length - ids.indexOf(there.ids()[0]!)).toBeLessThanOrEqual(100)
  })

  test('takes over when no sign of life comes from a network that swallows everything', async () => {
    const [first, second] = [await newAddress(), await newAddress()]
    const lost = collector()
    const found = collector()
    await listen(first, lost.onBatch)
    await listen(second, found.onBatch)
    const proxy = await startProxy({ host: '127.0.0.1', port: Number(first.split(':')[2]) })
    try {
      const broker = make({ consumers: billing(`tcp://127.0.0.1:${proxy.port}`, second), heartbeatMs: 300 })
      expect(statuses(await broker.send(keyed(1), { signal: never }))).toEqual(['sent'])
      expect(lost.received).toHaveLength(1)
      proxy.blackHole('both')
      const sent = keyed(3)
      expect(all(await broker.send(sent, { signal: never }))).toBe('sent')
      expect(found.ids()).toEqual(sent.map(({ id }) => id))
    } finally {
      await proxy.close()
    }
  })

  test('takes over from a receiver that gives signs of life and acknowledges nothing', async () => {
    const [first, second] = [await newAddress(), await newAddress()]
    let release = (): void => {}
    const stuck = new Promise<void>((resolve) => (release = resolve))
    await listen(first, () => stuck)
    const inbox = collector()
    await listen(second, inbox.onBatch)
    const sent = keyed(3)
    const broker = make({ consumers: billing(first, second), ackTimeoutMs: 300 })
    expect(all(await broker.send(sent, { signal: never }))).toBe('sent')
    expect(inbox.ids()).toEqual(sent.map(({ id }) => id))
    release()
  })

  test('is not asked while the first one answers', async () => {
    const [first, second] = [await newAddress(), await newAddress()]
    const inbox = collector()
    await listen(first, inbox.onBatch)
    const other = await router(second)
    const broker = make({ consumers: billing(first, second) })
    for (let times = 0; times < 3; times++)
      expect(all(await broker.send(keyed(5), { signal: never }))).toBe('sent')
    expect(inbox.received).toHaveLength(15)
    other.receiveTimeout = 0
    await expect(other.receive()).rejects.toMatchObject({ code: 'EAGAIN' })
  })

  test('is where a receiver listens that finds the first one taken; one more waits until one is free', async () => {
    const consumers = billing(await newAddress(), await newAddress())
    const inboxes = [collector(), collector(), collector()]
    const troubles: string[] = []
    const receivers = await Promise.all(
      inboxes.map(async ({ onBatch }) => {
        const broker = make({ consumers })
        const onTrouble = ({ message }: Error): void => void troubles.push(message)
        await broker.subscribe({ consumer: 'billing', topics, batchSize: 10, onTrouble }, onBatch)
        return broker
      }),
    )
    const sender = make({ consumers })
    const count = (): number[] => inboxes.map(({ received }) => received.length)
    expect(all(await sender.send(keyed(1), { signal: never }))).toBe('sent')
    expect(count().toSorted((a, b) => a - b)).toEqual([0, 0, 1])
    // Whoever listens goes, until only the one that waited is left. It says once that it waits.
    for (let left = 3; left > 1; left--) {
      const at = count().findIndex((one) => one > 0)
      await receivers[at]!.close()
      inboxes[at] = collector()
      await sendAll(sender, keyed(1))
      expect(count().filter((one) => one > 0)).toEqual([1])
    }
    expect(troubles).toEqual([expect.stringContaining('waits until it can listen')])
  })

  test('comes from a function, for receivers that move', async () => {
    let consumers = billing(await newAddress())
    const broker = make({ consumers: () => consumers, refreshMs: 50 })
    expect(statuses(await broker.send(keyed(1), { signal: never }))).toEqual(['failed'])
    const address = await newAddress()
    const inbox = collector()
    await listen(address, inbox.onBatch)
    consumers = billing(address)
    await sendAll(broker, keyed(1))
    expect(inbox.received).toHaveLength(1)
  })
})

describe('a consumer that is away', () => {
  test('holds back what is for it, and nothing else; who has a message gets no copy of it', async () => {
    const [here, away] = [await newAddress(), await newAddress()]
    const inbox = collector()
    await listen(here, inbox.onBatch)
    const broker = make({
      consumers: {
        billing: { addresses: [here], topics: ['a', 'both'] },
        shipping: { addresses: [away], topics: ['b', 'both'] },
      },
    })
    const batch = [outgoing('a'), outgoing('b'), outgoing('both'), outgoing('c')]
    const outcomes = await broker.send(batch, { signal: never })
    expect(statuses(outcomes)).toEqual(['sent', 'held', 'held', 'rejected'])
    expect(errorOf(outcomes[1]!)!.message).toContain(`The consumer shipping is not to be reached at ${away}`)
    const again = await broker.send(batch.slice(1, 3), { signal: never })
    expect(statuses(again)).toEqual(['held', 'held'])
    expect(inbox.ids()).toEqual([batch[0]!.id, batch[2]!.id])

    const late = collector()
    await listen(away, late.onBatch, { consumer: 'shipping' })
    await sendAll(broker, batch.slice(1, 3))
    expect(late.ids()).toEqual([batch[1]!.id, batch[2]!.id])
    expect(inbox.ids()).toEqual([batch[0]!.id, batch[2]!.id])
  })

  test('is not taken for another one that listens at its address', async () => {
    const address = await newAddress()
    const inbox = collector()
    await listen(address, inbox.onBatch, { consumer: 'shipping' })
    const outcomes = await make({ consumers: billing(address) }).send(keyed(2), { signal: never })
    expect(all(outcomes)).toMatch(/^(unknown|failed)(,(unknown|failed))?$/)
    expect(errorOf(outcomes[0]!)!.message).toContain('This is consumer shipping, and not billing.')
    expect(inbox.received).toEqual([])
  })
})

describe('what is under way', () => {
  test('is bounded in messages and in bytes, and a larger message goes alone', async () => {
    const address = await newAddress()
    const other = await router(address)
    const bounds = { maxUnconfirmed: 3, maxUnconfirmedBytes: 5000 }
    const broker = make({ consumers: billing(address), ...bounds })
    const sizes = [10, 10, 10, 10, 3000, 10_000, 10]
    const sent = sizes.map((size) => outgoing('a', { content: 'x'.repeat(size) }))
    const sending = broker.send(sent, { signal: never })
    const ids = sent.map(({ id }) => id)
    for (const group of [ids.slice(0, 3), ids.slice(3, 5), ids.slice(5, 6), ids.slice(6)]) {
      other.receiveTimeout = 20_000
      const got = []
      for (const id of group) {
        got.push(await other.receive())
        expect(got.at(-1)![1]!.toString()).toBe(id)
      }
      // No more comes before an answer does.
      other.receiveTimeout = 100
      await expect(other.receive()).rejects.toMatchObject({ code: 'EAGAIN' })
      for (const [from, id] of got) await other.send([from!, id!, 'ok'])
    }
    expect(all(await sending)).toBe('sent')
  })

  test('is refused alone if the receiver says no; answers that are none are passed over', async () => {
    const address = await newAddress()
    const other = await router(address)
    const sent = keyed(3)
    const sending = make({ consumers: billing(address) }).send(sent, { signal: never })
    const got = [await other.receive(), await other.receive(), await other.receive()]
    const from = got[0]![0]!
    for (const frames of [[''], ['x'], ['x', 'ok'], [sent[0]!.id], [sent[0]!.id, 'maybe'], [Buffer.alloc(9)]])
      await other.send([from, ...frames])
    await other.send([from, sent[1]!.id, 'no', 'I do not like it.'])
    await other.send([from, sent[2]!.id, 'ok', 'and', 'more'])
    await other.send([from, sent[0]!.id, 'ok'])
    const outcomes = await sending
    expect(statuses(outcomes)).toEqual(['sent', 'rejected', 'sent'])
    expect(errorOf(outcomes[1]!)).toMatchObject({
      kind: 'retry',
      message: expect.stringContaining('I do not like it.'),
    })
  })

  test('does not go out any more once sending was called off', async () => {
    const address = await newAddress()
    const other = await router(address)
    const broker = make({ consumers: billing(address), maxUnconfirmed: 1 })
    const abort = new AbortController()
    const sending = broker.send(keyed(2), { signal: abort.signal })
    await other.receive()
    abort.abort()
    expect(statuses(await sending)).toEqual(['unknown', 'failed'])
    const later = keyed(1)
    const next = broker.send(later, { signal: never })
    const [from, id] = await other.receive()
    expect(id!.toString()).toBe(later[0]!.id)
    await other.send([from!, id!, 'ok'])
    expect(statuses(await next)).toEqual(['sent'])
  })

  test('settles within the time for it when nobody answers', async () => {
    const address = await newAddress()
    await router(address)
    const broker = make({ consumers: billing(address), sendTimeoutMs: 200 })
    const outcomes = await broker.send(keyed(2), { signal: never })
    // Of one that was slow to connect, nothing has gone out.
    for (const status of statuses(outcomes)) expect(status).toMatch(/^(unknown|failed)$/)
  })
})

describe('a message that is too large', () => {
  test('for the sender is refused at once, for good, and the others go', async () => {
    const address = await newAddress()
    const inbox = collector()
    await listen(address, inbox.onBatch)
    const broker = make({ consumers: billing(address), maxMessageBytes: 1000 })
    const sent = [outgoing('a'), outgoing('a', { content: 'x'.repeat(1001) }), outgoing('a')]
    const outcomes = await broker.send(sent, { signal: never })
    expect(statuses(outcomes)).toEqual(['sent', 'rejected', 'sent'])
    expect(errorOf(outcomes[1]!)).toMatchObject({ kind: 'poison' })
    expect(inbox.ids()).toEqual([sent[0]!.id, sent[2]!.id])
  })

  test('for the receiver alone ends connections until it is known which one it is, and the others go in order', async () => {
    const address = await newAddress()
    const inbox = collector()
    await listen(address, inbox.onBatch, { options: { maxMessageBytes: 2000 } })
    const sent = keyed(20)
    sent[7] = outgoing('a', { key: 'one', content: 'x'.repeat(2500) })
    const outcomes = await make({ consumers: billing(address) }).send(sent, { signal: never })
    expect(statuses(outcomes)).toEqual(sent.map((_, index) => (index === 7 ? 'rejected' : 'sent')))
    expect(errorOf(outcomes[7]!)!.message).toContain('maxMessageBytes')
    const fine = sent.filter((_, index) => index !== 7).map(({ id }) => id)
    expect([...new Set(inbox.received.map(idOf))]).toEqual(fine)
  })
})

describe('keys', () => {
  const relay = curveKeyPair()
  const stranger = curveKeyPair()
  const receiver = curveKeyPair()
  const consumersAt = (address: string): ZeromqConsumers => ({
    billing: { addresses: [address], topics, publicKey: receiver.publicKey },
  })

  test('let in who is on the list, and nobody else: no other key, no wrong one of the receiver, nobody without', async () => {
    const address = await newAddress()
    const inbox = collector()
    const curve = { ...receiver, allow: [relay.publicKey] }
    await listen(address, inbox.onBatch, { options: { curve } })
    const consumers = consumersAt(address)
    const send = async (options: Parameters<typeof make>[0]): Promise<SendOutcome> =>
      (await make(options).send(keyed(1), { signal: never }))[0]!
    expect(await send({ consumers, curve: relay })).toEqual({ status: 'sent' })
    const mistaken = { billing: { addresses: [address], topics, publicKey: stranger.publicKey } }
    const hasty = { heartbeatMs: 100 }
    const refused = await Promise.all([
      send({ consumers, curve: stranger }),
      send({ consumers: mistaken, curve: relay, ...hasty }),
      send({ consumers: billing(address), ...hasty }),
    ])
    for (const outcome of refused) expect(outcome.status).toBe('failed')
    expect(errorOf(refused[0])!.message).toContain('it does not let in this key')
    expect(inbox.received).toHaveLength(1)
  })

  test('may be added and taken away while a receiver runs, and nobody comes in while the list cannot be had', async () => {
    const address = await newAddress()
    const inbox = collector()
    let allow: string[] | null = [stranger.publicKey]
    const curve = () => {
      if (allow === null) throw new Error('The vault is closed.')
      return { ...receiver, allow }
    }
    await listen(address, inbox.onBatch, { options: { curve } })
    const send = async (): Promise<string> => {
      const broker = make({ consumers: consumersAt(address), curve: () => relay })
      return statuses(await broker.send(keyed(1), { signal: never })).join()
    }
    expect(await send()).toBe('failed')
    allow = [stranger.publicKey, relay.publicKey]
    expect(await send()).toBe('sent')
    allow = null
    expect(await send()).toBe('failed')
    allow = [relay.publicKey]
    expect(await send()).toBe('sent')
  })
})
