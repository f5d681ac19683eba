import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { describe, expect, it, vi } from 'vitest'
import { BrokerError } from '../../../src/base/errors.ts'
import type { Broker } from '../../../src/brokers/broker.ts'
import type { OutgoingMessage } from '../../../src/message/message.ts'
import { collector, errorOf, idOf, outgoing, statuses, subscribe } from '../contract.ts'
import type { KafkaNode } from '../../support/kafka.ts'
import { never, sockets, type Fixture } from './fixture.ts'

/** The one broker that there is dies, freezes and comes back; a receiver dies; kafkajs stops without a word. */
export function kafkaFaults(fixture: Fixture): void {
  const { make, newTopic, createTopic, service } = fixture
  const node = (): KafkaNode => service().nodes[0]!

  describe('the broker', () => {
    it('is killed and started again while messages go through: none is lost, every key keeps its order', async () => {
      const topic = newTopic()
      const broker = make({ sendTimeoutMs: 3000 })
      const inbox = collector()
      const troubles: BrokerError[] = []
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 50, (error) => troubles.push(error))
      const sent: OutgoingMessage[] = []
      let killed: Promise<void> | null = null
      for (let round = 0; round < 60; round++) {
        const batch = Array.from({ length: 20 }, (_, index) => outgoing(topic, { key: `key-${index % 5}` }))
        if (round === 20) killed = node().kill()
        await sendUntilSent(broker, batch, async () => {
          if (killed === null) return
          await killed
          killed = null
          await node().start()
        })
        sent.push(...batch)
      }
      expect(killed).toBeNull()
      await inbox.until((received) => new Set(received.map(idOf)).size === sent.length)

      for (let key = 0; key < 5; key++) {
        const ofKey = (message: { readonly key: string | null }): boolean => message.key === `key-${key}`
        const firsts = [...new Set(inbox.received.filter(ofKey).map(idOf))]
        expect(firsts).toEqual(sent.filter(ofKey).map(({ id }) => id))
      }
      expect(troubles.length).toBeGreaterThan(0)
      for (const error of troubles) expect(error).toBeInstanceOf(BrokerError)
    })

    it('is down: sending fails at once, subscribing waits for it', async () => {
      const topic = await createTopic()
      await node().kill()
      const broker = make()
      const inbox = collector()
      const troubles: BrokerError[] = []
      const message = outgoing(topic)
      const [outcome] = await broker.send([message], { signal: never })
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))
      expect(outcome).toMatchObject({ status: 'failed', error: { kind: 'reconnect' } })
      expect(troubles).toMatchObject([{ kind: 'reconnect' }])

      await node().start()
      await sendUntilSent(broker, [message])
      await inbox.until((received) => received.length >= 1)
      expect(inbox.ids()[0]).toBe(message.id)
    })

    it('is frozen: what is in flight is unknown in time, the other batch with it, and order is kept', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const sendTimeoutMs = 2000
      const broker = make({ sendTimeoutMs })
      const [first, inFlight, after] = Array.from({ length: 3 }, () => outgoing(topic, { key: 'one' }))
      const other = outgoing(topic, { key: 'another' })
      await broker.send([first!], { signal: never })

      node().freeze()
      const startedAt = performance.now()
      const sending = broker.send([inFlight!], { signal: never })
      // It has time left when the first one fails, and the broker is well again by then.
      await new Promise((wake) => setTimeout(wake, sendTimeoutMs / 2))
      const beside = broker.send([other], { signal: never })
      const outcomes = [...(await sending), ...(await sending.then(() => (node().thaw(), beside)))]
      expect(outcomes[0]).toMatchObject({ status: 'unknown' })
      expect(outcomes[1]!.status).toBeOneOf(['unknown', 'sent'])
      expect(performance.now() - startedAt).toBeLessThan(sendTimeoutMs + 1000)

      await sendUntilSent(broker, [inFlight!, after!])
      await sendUntilSent(broker, [other])
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      await inbox.until((received) =>
        [after!.id, other.id].every((id) => received.some((one) => idOf(one) === id)),
      )
      const ofKey = inbox.received.filter(({ key }) => key === 'one').map(idOf)
      expect([...new Set(ofKey)]).toEqual([first!.id, inFlight!.id, after!.id])
    })

    it('takes two batches at a time, each in its order', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const broker = make()
      const batches = ['a', 'b'].map((key) => Array.from({ length: 500 }, () => outgoing(topic, { key })))
      const outcomes = await Promise.all(batches.map((batch) => broker.send(batch, { signal: never })))
      expect(new Set(statuses(outcomes.flat()))).toEqual(new Set(['sent']))
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch)
      await inbox.until((received) => received.length === 1000)
      for (const batch of batches) {
        const ofKey = inbox.received.filter(({ key }) => key === batch[0]!.key)
        expect(ofKey.map(idOf)).toEqual(batch.map(({ id }) => id))
      }
    })

    it('is frozen until every request to it has timed out: the receiver goes on after it', async () => {
      const topic = await createTopic({ numPartitions: 1 })
      const sessionTimeoutMs = service().minSessionMs
      const broker = make({ sessionTimeoutMs })
      const inbox = collector()
      const troubles: BrokerError[] = []
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))
      const [before, after] = [outgoing(topic), outgoing(topic)]
      await broker.send([before], { signal: never })
      await inbox.until((received) => received.length === 1)

      node().freeze()
      try {
        await expect.poll(() => troubles.length, { timeout: 40_000 }).toBeGreaterThan(0)
      } finally {
        node().thaw()
      }
      await sendUntilSent(broker, [after])
      await inbox.until((received) => received.some((one) => idOf(one) === after.id))
      expect([...new Set(inbox.ids())]).toEqual([before.id, after.id])
    })

    it('is frozen while a sender gives up: it settles at once', async () => {
      const topic = await createTopic()
      const broker = make()
      await broker.send([outgoing(topic)], { signal: never })
      node().freeze()
      try {
        const giveUp = new AbortController()
        const sending = broker.send([outgoing(topic)], { signal: giveUp.signal })
        setTimeout(() => giveUp.abort(), 200)
        const startedAt = performance.now()
        expect(statuses(await sending)).toEqual(['unknown'])
        expect(performance.now() - startedAt).toBeLessThan(2000)
      } finally {
        node().thaw()
      }
    })

    it('is frozen before we have connected: sending fails in time', async () => {
      const topic = await createTopic()
      const sendTimeoutMs = 1000
      const broker = make({ sendTimeoutMs })
      node().freeze()
      try {
        const startedAt = performance.now()
        expect(statuses(await broker.send([outgoing(topic)], { signal: never }))).toEqual(['failed'])
        expect(performance.now() - startedAt).toBeLessThan(sendTimeoutMs + 500)
      } finally {
        node().thaw()
      }
    })

    it('is frozen while we close: closing neither waits for it nor leaves a connection behind', async () => {
      const topic = await createTopic()
      const before = sockets()
      const broker = make()
      await subscribe(broker, 'billing', [topic], async () => {})
      await broker.send([outgoing(topic)], { signal: never })
      expect(sockets()).toBeGreaterThan(before)
      node().freeze()
      try {
        const startedAt = performance.now()
        await broker.close()
        expect(performance.now() - startedAt).toBeLessThan(6000)
        await expect.poll(sockets).toBeLessThanOrEqual(before)
      } finally {
        node().thaw()
      }
    })
  })

  describe('a receiver', () => {
    it('is killed with a batch in hand: the other one gets it after the session, in order', async () => {
      const topic = await createTopic({ numPartitions: 4 })
      const sessionTimeoutMs = 2 * service().minSessionMs
      const broker = make({ sessionTimeoutMs })
      const inbox = collector()
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 10)
      const consumer = `billing-${topic}`
      const member = spawn(
        process.execPath,
        [
          ...['--import', 'jiti/register', new URL('member.ts', import.meta.url).pathname],
          ...[service().brokers.join(), consumer, topic, String(sessionTimeoutMs)],
          fixture.client ?? 'kafkajs',
        ],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      )
      try {
        await said(member.stdout, 'joined')
        const sent = Array.from({ length: 200 }, (_, index) => outgoing(topic, { key: `key-${index % 20}` }))
        const holding = said(member.stdout, 'holding')
        await sendUntilSent(broker, sent)
        await holding
        const before = new Set(inbox.ids()).size
        member.kill('SIGKILL')
        await inbox.until((received) => new Set(received.map(idOf)).size === 200)

        expect(before).toBeLessThan(200)
        for (let key = 0; key < 20; key++) {
          const ofKey = (message: { readonly key: string | null }): boolean => message.key === `key-${key}`
          const firsts = [...new Set(inbox.received.filter(ofKey).map(idOf))]
          expect(firsts).toEqual(sent.filter(ofKey).map(({ id }) => id))
        }
      } finally {
        member.kill('SIGKILL')
      }
    })
  })

  describe.skipIf(fixture.client !== undefined)('kafkajs', () => {
    // Its inside, since there is no way to bring these faults about from outside when one wants them.
    const inside = createRequire(createRequire(import.meta.url).resolve('kafkajs'))
    const { prototype: runner }: RunnerModule = inside('./src/consumer/runner')
    const { KafkaJSGroupCoordinatorNotFound }: ErrorsModule = inside('./src/errors')

    it('joins and then never fetches: the watchdog starts over', async () => {
      const topic = await createTopic()
      const broker = make({ sessionTimeoutMs: service().minSessionMs })
      const message = outgoing(topic)
      await broker.send([message], { signal: never })
      const inbox = collector()
      const troubles: BrokerError[] = []
      const fault = vi.spyOn(runner, 'scheduleFetchManager').mockImplementationOnce(() => {})
      try {
        await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))
        expect(fault).toHaveBeenCalledTimes(1)
        await inbox.until((received) => received.length === 1)
      } finally {
        fault.mockRestore()
      }
      expect(inbox.ids()).toEqual([message.id])
      expect(troubles).toMatchObject([
        { kind: 'reconnect', message: expect.stringContaining('1 messages wait') },
      ])
    })

    it('crashes on an error after which it does not restart: we do', async () => {
      const topic = await createTopic()
      const broker = make()
      const inbox = collector()
      const troubles: BrokerError[] = []
      await subscribe(broker, 'billing', [topic], inbox.onBatch, 10, (error) => troubles.push(error))
      const fault = vi.spyOn(runner, 'fetch').mockImplementationOnce(async () => {
        throw new KafkaJSGroupCoordinatorNotFound('planted')
      })
      try {
        await expect.poll(() => troubles.length, { timeout: 15_000 }).toBe(1)
      } finally {
        fault.mockRestore()
      }
      await broker.send([outgoing(topic)], { signal: never })
      await inbox.until((received) => received.length === 1)
      expect(troubles[0]!.message).toContain('planted')
    })
  })
}

interface RunnerModule {
  readonly prototype: { scheduleFetchManager(): void; fetch(nodeId: number): Promise<unknown> }
}

interface ErrorsModule {
  readonly KafkaJSGroupCoordinatorNotFound: new (text: string) => Error
}

/** Resends with the same ids what was not sent, as a relay does. */
export async function sendUntilSent(
  broker: Broker,
  batch: readonly OutgoingMessage[],
  onFailure: () => Promise<void> = async () => {},
): Promise<void> {
  let left = batch
  while (left.length > 0) {
    const outcomes = await broker.send(left, { signal: never })
    const first = outcomes.findIndex(({ status }) => status !== 'sent')
    if (first === -1) return
    expect(errorOf(outcomes[first]!)).toBeInstanceOf(BrokerError)
    left = left.slice(first)
    await onFailure()
    await new Promise((wake) => setTimeout(wake, 100))
  }
}

async function said(output: NodeJS.EventEmitter, word: string): Promise<void> {
  for (;;) {
    const [text]: unknown[] = await once(output, 'data')
    if (String(text).includes(word)) return
  }
}
