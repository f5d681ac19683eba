import { describe } from 'vitest'
import { findKafkaSource } from '../../support/kafka.ts'
import { findPlatformatic, platformatic } from '../../support/platformatic.ts'
import { describeWith, isMissing } from '../../support/require.ts'
import { kafkaFaults } from './faults.ts'
import { useFixture } from './fixture.ts'

const usable = await findPlatformatic()
const found = isMissing(usable) ? usable : await findKafkaSource('4')
describeWith(platformatic, found, 'The Kafka broker, with Kafka 4', (source) => {
  // A server that belongs to somebody else is not killed.
  describe.skipIf(!source.ours)('when something breaks', { timeout: 150_000 }, () => {
    kafkaFaults(useFixture(source, 1, platformatic))
  })
})
