import { Kafka, logLevel, type Message } from 'kafkajs'
import { describe, expect, test } from 'vitest'
import type { Gap } from '../../../src/brokers/broker.ts'
import { recordEvents, type Recorder } from '../../support/events.ts'
import type { KafkaSource } from '../../support/kafka.ts'
import { collector, subscribe } from '../contract.ts'
import { useReceiver, type Fixture } from './fixture.ts'

/** The server that the run shares. */
export const sharedSource = ({ brokers }: { readonly brokers: string[] }): KafkaSource => ({
  ...{ version: 'shared', ours: false },
  start: async () => ({
    ...{ brokers, version: 'shared', minSessionMs: 6000, nodes: [] },
    stop: async () => {},
  }),
})

/** A consumer that stands while records wait is replaced after twice its session, and its successor waits for the end of that. */
const patienceMs = 60_000

/** A place in a topic: whose it is, and what becomes of a consumer that Kafka has left behind. */
export function kafkaPositions({ service, make, admin, producer, createTopic }: Fixture): void {
  const receiving = useReceiver()
  let events: Recorder
  const one = { numPartitions: 1 }

  function receive(topic: string): Promise<void> {
    events = recordEvents()
    return receiving.receive(topic, make(), events.onEvent)
  }
  const count = async (topic: string): Promise<number> =>
    (await receiving.database().query('select 1 from twinbox.inbox where consumer = $1', [topic])).length

  /** The same to the byte each time, at the same times: only the topic is another one. */
  const ticks = (topic: string): Promise<unknown> => {
    const messages: Message[] = [1, 2, 3].map((n) => ({
      value: String(n),
      timestamp: String(1764400000000 + n),
    }))
    return producer().send({ topic, messages })
  }
  async function remake(topic: string): Promise<void> {
    await admin().deleteTopics({ topics: [topic] })
    await expect
      .poll(async () => (await admin().listTopics()).includes(topic), { timeout: 20_000 })
      .toBe(false)
    await admin().createTopics({ topics: [{ topic, ...one }], waitForLeaders: false })
    await expect
      .poll(
        () =>
          ticks(topic).then(
            () => true,
            () => false,
          ),
        { timeout: 20_000 },
      )
      .toBe(true)
  }

  test('is the same for every consumer, and no other topic of that name has it', async () => {
    const topic = await createTopic(one)
    await ticks(topic)
    const places = async (consumer: string): Promise<(string | null)[]> => {
      const inbox = collector()
      const subscription = await subscribe(make(), consumer, [topic], inbox.onBatch)
      await inbox.until((received) => received.length === 3)
      await subscription.stop()
      return inbox.received.map(({ position }) => position)
    }
    const before = await places(`${topic}.a`)
    expect(before[0]).toMatch(new RegExp(`^${topic}/0/0@[\\w-]{22}$`))
    expect(await places(`${topic}.b`)).toEqual(before)
    await remake(topic)
    const after = await places(`${topic}.c`)
    expect(after.map((place) => place!.split('@')[0])).toEqual(before.map((place) => place!.split('@')[0]))
    expect(after.filter((place) => before.includes(place))).toEqual([])
  })

  test('that Kafka no longer keeps is told, with what is missing, and the rest arrives', async () => {
    const topic = await createTopic(one)
    await ticks(topic)
    await receive(topic)
    await expect.poll(() => count(topic), { timeout: 20_000 }).toBe(3)
    await receiving.stop()
    await ticks(topic)
    await ticks(topic)
    // As retention does, beyond where the group stands.
    await admin().deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '7' }] })
    await receive(topic)
    await expect.poll(() => count(topic), { timeout: 20_000 }).toBe(5)
    expect(events.of('retention_gap')).toMatchObject([
      { consumer: topic, topic, partition: 0, from: 3, to: 7, kind: 'receiver' },
    ])
    // Whoever begins has missed nothing, though the log does not begin at zero.
    const gaps: Gap[] = []
    const inbox = collector()
    const options = {
      consumer: `${topic}.new`,
      topics: [topic],
      batchSize: 10,
      onGap: (gap: Gap) => gaps.push(gap),
    }
    const subscription = await make().subscribe(options, inbox.onBatch)
    await inbox.until((received) => received.length === 2)
    await subscription.stop()
    expect(gaps).toEqual([])
  })

  test('counts anew in a topic that was made again, while no receiver runs and while one does', async () => {
    const topic = await createTopic(one)
    await ticks(topic)
    await receive(topic)
    await expect.poll(() => count(topic), { timeout: patienceMs }).toBe(3)
    await receiving.stop()
    await remake(topic)
    await receive(topic)
    await expect.poll(() => count(topic), { timeout: patienceMs }).toBe(6)
    await remake(topic)
    await expect.poll(() => count(topic), { timeout: patienceMs }).toBe(9)
    // Nothing was deleted before it was read, but for what was read.
    expect(events.of('retention_gap')).toEqual([])
  }, 200_000)

  describe('that was committed for a topic which was deleted since', () => {
    interface Committed {
      readonly offset: string
      readonly metadata: string | null
    }
    const committed = async (topic: string): Promise<Committed> => {
      const [found] = await admin().fetchOffsets({ groupId: `twinbox.${topic}`, topics: [topic] })
      return found!.partitions[0]!
    }
    /** What a receiver had on its way when somebody deleted the topic, and was killed before it noticed. */
    async function commit(topic: string, place: Committed): Promise<void> {
      const kafka = new Kafka({ brokers: service().brokers, logLevel: logLevel.NOTHING })
      const consumer = kafka.consumer({ groupId: `twinbox.${topic}` })
      const joined = new Promise<void>((done) => void consumer.on(consumer.events.GROUP_JOIN, () => done()))
      await consumer.connect()
      await consumer.subscribe({ topic, fromBeginning: true })
      await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch: async () => {} })
      await joined
      await consumer.commitOffsets([{ topic, partition: 0, ...place }])
      await consumer.disconnect()
    }
    async function received(): Promise<{ readonly topic: string; readonly place: Committed }> {
      const topic = await createTopic(one)
      await ticks(topic)
      await receive(topic)
      await expect.poll(() => count(topic), { timeout: patienceMs }).toBe(3)
      await receiving.stop()
      return { topic, place: await committed(topic) }
    }

    test('steps over nothing of the one that has its name now', async () => {
      const { topic, place } = await received()
      await remake(topic)
      await commit(topic, place)
      await receive(topic)
      await expect.poll(() => count(topic), { timeout: patienceMs }).toBe(6)
      // And the next one goes on where this one was.
      await receiving.stop()
      const next = await committed(topic)
      expect(next).toEqual({ partition: 0, offset: '3', metadata: expect.any(String) as string })
      expect(next.metadata).not.toBe(place.metadata)
    }, 200_000)

    test('counts where somebody has carried it over from another cluster, or has said nothing', async () => {
      const { topic, place } = await received()
      const mirrored = place.metadata!.replace(/^\S+/, 'of-another-cluster')
      for (const metadata of [mirrored, null, 'of somebody else']) {
        await remake(topic)
        await commit(topic, { offset: '2', metadata })
        const before = await count(topic)
        await receive(topic)
        await expect.poll(() => count(topic), { timeout: patienceMs }).toBe(before + 1)
        await receiving.stop()
      }
    }, 200_000)
  })
}
