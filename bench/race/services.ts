import { kafka } from '../../test/support/servers/kafka.ts'
import { rabbitmq } from '../../test/support/servers/rabbitmq.ts'
import { isMissing } from '../../test/support/require.ts'
import type { Stage } from '../scenario.ts'

/** A broker that is there, or started for the scenario and stopped with it. Else why there is none. */
export async function startBroker(
  stage: Stage,
  kind: 'rabbitmq' | 'kafka',
): Promise<{ readonly address: string } | string> {
  const found = kind === 'rabbitmq' ? await rabbitmq.start() : await kafka.start()
  if (isMissing(found)) return found.missing
  stage.cleanUp.push(() => found.stop())
  return { address: 'url' in found.address ? found.address.url : found.address.brokers[0]! }
}
