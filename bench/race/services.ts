import { kafka } from '../../test/support/servers/kafka.ts'
import { rabbitmq } from '../../test/support/servers/rabbitmq.ts'
import { findPlatformatic } from '../../test/support/platformatic.ts'
import { isMissing } from '../../test/support/require.ts'
import type { Stage } from '../scenario.ts'
import type { BrokerKind } from './entrant.ts'
import { freePort } from '../../proof/stage/postgres.ts'

/** A broker that is there, or started for the scenario and stopped with it. Else why there is none. */
export async function startBroker(
  stage: Stage,
  kind: BrokerKind,
): Promise<{ readonly address: string } | string> {
  if (kind === 'zeromq') return { address: `tcp://127.0.0.1:${await freePort()}` }
  const usable = kind === 'platformatic' ? await findPlatformatic() : {}
  if (isMissing(usable)) return usable.missing
  const found = kind === 'rabbitmq' ? await rabbitmq.start() : await kafka.start()
  if (isMissing(found)) return found.missing
  stage.cleanUp.push(() => found.stop())
  return { address: 'url' in found.address ? found.address.url : found.address.brokers[0]! }
}
