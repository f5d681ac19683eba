import { expect, it } from 'vitest'
import { collector, errorOf, idOf, outgoing, subscribe } from '../contract.ts'
import { sendUntilSent } from './faults.ts'
import { never, type Fixture } from './fixture.ts'

/** Three brokers, of which one dies. */
export function kafkaCluster({ make, createTopic, admin, service }: Fixture): void {
  it('goes on with the other brokers when the leader of a partition dies, in order', async () => {
    const topic = await createTopic({ numPartitions: 1, replicationFactor: 3 })
    const broker = make({ sendTimeoutMs: 3000 })
    const inbox = collector()
    await subscribe(broker, 'billing', [topic], inbox.onBatch)
    const sent = Array.from({ length: 300 }, () => outgoing(topic, { key: 'one' }))
    await sendUntilSent(broker, sent.slice(0, 100))
    await inbox.until((received) => received.length >= 100)

    const { topics } = await admin().fetchTopicMetadata({ topics: [topic] })
    const leader = service().nodes.find(({ id }) => id === topics[0]!.partitions[0]!.leader)!
    const killing = leader.kill()
    await sendUntilSent(broker, sent.slice(100, 200))
    await killing
    await sendUntilSent(broker, sent.slice(200))

    await inbox.until((received) => new Set(received.map(idOf)).size === 300)
    expect([...new Set(inbox.ids())]).toEqual(sent.map(({ id }) => id))
    await leader.start()
  })

  it('waits for as many replicas as the topic requires: with fewer in sync, nothing is sent', async () => {
    const topic = await createTopic({
      ...{ numPartitions: 1, replicationFactor: 3 },
      configEntries: [{ name: 'min.insync.replicas', value: '3' }],
    })
    const broker = make({ sendTimeoutMs: 3000 })
    const message = outgoing(topic)
    await sendUntilSent(broker, [message])
    const { topics } = await admin().fetchTopicMetadata({ topics: [topic] })
    const follower = service().nodes.find(({ id }) => id !== topics[0]!.partitions[0]!.leader)!
    await follower.kill()

    await expect
      .poll(
        async () => {
          const [outcome] = await broker.send([outgoing(topic)], { signal: never })
          return outcome!.status === 'sent' ? 'sent' : errorOf(outcome!)!.message
        },
        { timeout: 30_000 },
      )
      .toContain('NOT_ENOUGH_REPLICAS')

    await follower.start()
    await sendUntilSent(broker, [message])
  })
}
