import { describeWith } from '../../support/require.ts'
import { kafka } from '../../support/servers/kafka.ts'
import { shared } from '../../support/shared.ts'
import { useFixture } from './fixture.ts'
import { kafkaPositions, sharedSource } from './positions.ts'

describeWith('kafka', await shared(kafka), 'a position in Kafka', (server) =>
  kafkaPositions(useFixture(sharedSource(server))),
)
