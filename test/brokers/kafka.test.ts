import { describe } from 'vitest'
import { findKafkaSource, type KafkaVersion } from '../support/kafka.ts'
import { describeWith } from '../support/require.ts'
import { brokerContract } from './contract.ts'
import { kafkaCluster } from './kafka/cluster.ts'
import { kafkaFaults } from './kafka/faults.ts'
import { useFixture } from './kafka/fixture.ts'
import { kafkaFromOthers } from './kafka/foreign.ts'
import { kafkaFuzz } from './kafka/fuzz.ts'
import { kafkaInGoodHealth } from './kafka/health.ts'

// A server that dies, or three of them, take a minute each: in each run with one version, and with both in the long proofs.
const all = process.env['TWINBOX_TEST_ALL'] !== undefined

for (const version of ['3.9', '4'] as const satisfies KafkaVersion[]) {
  describeWith(
    'kafka',
    await findKafkaSource(version),
    `The Kafka broker, with Kafka ${version}`,
    (source) => {
      describe('in good health', { timeout: 30_000 }, () => {
        const fixture = useFixture(source)
        // With its own options and for the other version as well; `registry.test.ts` has the defaults.
        brokerContract('kafka', {
          make: () => fixture.make(),
          newTopic: fixture.newTopic,
          // Kafka creates any topic but this one.
          unroutableTopic: () => '..',
          tooLarge: async () => ({
            broker: fixture.make(),
            topic: await fixture.createTopic({
              configEntries: [{ name: 'max.message.bytes', value: '10000' }],
            }),
            bytes: 20_000,
          }),
          timeoutMs: 40_000,
        })
        kafkaInGoodHealth(fixture)
        kafkaFromOthers(fixture)
        if (version === '3.9') kafkaFuzz(fixture)
      })

      // A server that belongs to somebody else is not killed.
      describe.runIf(source.ours && (all || version === '3.9'))(
        'when something breaks',
        { timeout: 60_000 },
        () => {
          kafkaFaults(useFixture(source))
        },
      )
      describe.runIf(source.ours && (all || version === '4'))(
        'with three brokers',
        { timeout: 90_000 },
        () => {
          kafkaCluster(useFixture(source, 3))
        },
      )
    },
  )
}
