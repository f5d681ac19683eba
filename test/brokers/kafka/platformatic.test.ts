import { describe } from 'vitest'
import { kafka as adapter } from '../../../src/brokers/kafka/adapter.ts'
import { findKafkaSource } from '../../support/kafka.ts'
import { findPlatformatic, platformatic, query } from '../../support/platformatic.ts'
import { describeWith, isMissing } from '../../support/require.ts'
import { kafka as kafkaServer } from '../../support/servers/kafka.ts'
import { shared } from '../../support/shared.ts'
import { openContractTrial, trialContract } from '../trial.ts'
import { useFixture } from './fixture.ts'
import { kafkaFromOthers } from './foreign.ts'
import { kafkaFuzz } from './fuzz.ts'
import { kafkaInGoodHealth } from './health.ts'
import { kafkaPositions, sharedSource } from './positions.ts'
import { kafkaTogether } from './together.ts'

/** The second client library keeps the same promises. */
const usable = await findPlatformatic()

const server = isMissing(usable) ? usable : await shared(kafkaServer)
const found = isMissing(server) ? server : { url: `${server.brokers.join(',')}?${query}` }
const trial = await openContractTrial(adapter, found)
describeWith(platformatic, found, 'a Kafka broker with default options, and Kafka 3.9', () =>
  trialContract(platformatic, trial!),
)
describeWith(platformatic, server, 'Kafka 3.9', (address) => {
  describe('and a position in it', () => {
    kafkaPositions(useFixture(sharedSource(address), 1, platformatic))
  })
  describe('with kafkajs beside it', { timeout: 60_000 }, () => {
    kafkaTogether(useFixture(sharedSource(address), 1, platformatic))
  })
})

const other = isMissing(usable) ? usable : await findKafkaSource('4')
describeWith(platformatic, other, 'The Kafka broker, with Kafka 4', (source) => {
  describe('in good health', { timeout: 30_000 }, () => {
    const fixture = useFixture(source, 1, platformatic)
    kafkaInGoodHealth(fixture)
    kafkaFromOthers(fixture)
    kafkaFuzz(fixture)
  })
})
