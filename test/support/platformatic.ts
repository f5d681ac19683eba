import { adapterOf } from '../../src/brokers/registry.ts'
import { loadPlatformatic } from '../../src/brokers/kafka/platformatic/platformatic.ts'
import { describeError } from '../../src/base/errors.ts'
import type { Found } from './require.ts'

/** As `TWINBOX_TEST_REQUIRE` names the second client library of Kafka. It needs a later Node than Twinbox. */
export const platformatic = 'platformatic'

/** How `--url` takes it. */
export const { query } = adapterOf('kafka')!.otherPeers![0]!

/** Whether this process can use it. */
export async function findPlatformatic(): Promise<Found<object>> {
  try {
    await loadPlatformatic()
    return {}
  } catch (error) {
    return { missing: describeError(error) }
  }
}
