import { findPlatformatic, platformatic } from '../support/platformatic.ts'
import { describeWith, isMissing } from '../support/require.ts'
import { kafka as kafkaServer } from '../support/servers/kafka.ts'
import { shared } from '../support/shared.ts'
import { suite } from './playing.ts'
import { unique } from './stage.ts'

/** The cells of the kill matrix that Kafka has a part in, with relay and receiver over the second client library. */
const usable = await findPlatformatic()
const found = isMissing(usable) ? usable : await shared(kafkaServer)

describeWith(platformatic, found, 'kill matrix', ({ brokers }) => {
  suite(
    'kafka',
    () => ({ kind: 'kafka', brokers, group: unique('twinbox.test'), client: platformatic }),
    true,
  )
})
