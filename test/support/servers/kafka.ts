import { findKafka } from '../kafka.ts'
import { isMissing } from '../require.ts'
import type { Server } from './server.ts'

export interface KafkaAddress {
  readonly brokers: string[]
  /** The shortest consumer session that the brokers allow. */
  readonly minSessionMs: number
}

/** One that the test files of a run share; those that kill brokers start their own. */
export const kafka: Server<KafkaAddress> = {
  name: 'kafka',
  variable: 'TWINBOX_TEST_KAFKA_BROKERS',
  packages: { java: ['openjdk-17-jre-headless'], mvn: ['maven'] },
  brokerUrl: ({ brokers }) => brokers.join(','),
  start: async () => {
    const service = await findKafka()
    if (isMissing(service)) return service
    const { brokers, version, minSessionMs } = service
    return {
      address: { brokers, minSessionMs },
      from: `${brokers.join(', ')}, ${version}`,
      stop: () => service.stop(),
    }
  },
}

export const servers = [kafka]
