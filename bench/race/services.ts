import { findKafka } from '../../test/support/kafka.ts'
import { findRabbitmq } from '../../test/support/rabbitmq.ts'
import { isMissing } from '../../test/support/require.ts'
import type { Stage } from '../scenario.ts'

/** A broker that is there, or started for the scenario and stopped with it. Else why there is none. */
export async function startBroker(
  stage: Stage,
  kind: 'rabbitmq' | 'kafka',
): Promise<{ readonly address: string } | string> {
  if (kind === 'rabbitmq') {
    const found = await findRabbitmq()
    if (isMissing(found)) return found.missing
    stage.cleanUp.push(() => found.stop())
    return { address: found.url }
  }
  const found = await findKafka()
  if (isMissing(found)) return found.missing
  stage.cleanUp.push(() => found.stop())
  return { address: found.brokers[0]! }
}
