import { OptionError } from '../base/errors.ts'
import { noFailpoint, type Failpoint } from '../base/failpoint.ts'
import { readFailover } from '../membership/failover.ts'
import { createWorker, type Worker } from '../membership/worker.ts'
import { readSettings, type RelayOptions } from './options.ts'
import { RunningRelay } from './running.ts'

/**
 * Creates a relay: a worker that reads the outbox and sends each message to the broker.
 *
 * At least once: a message leaves the outbox only after the broker has confirmed it, so a relay that dies in between
 * leaves it to another one, which sends it again; the inbox drops the second copy. Messages of one key are sent in the
 * order in which they were published. Run as many relays as you like; they share the lanes of the outbox fairly.
 *
 * While the broker is out of reach, nothing is held against any message; the relay tries again with backoff, for ever.
 *
 * @throws OptionError
 */
export function createRelay(options: RelayOptions, failpoint: Failpoint = noFailpoint): Worker {
  const settings = readSettings(options)
  if (typeof options.broker?.send !== 'function') {
    throw new OptionError(
      'broker',
      'broker is required: rabbitmq(…), kafka(…) or postgres(…), or one of your own.',
    )
  }
  const failover = readFailover(options.failover)
  let relay: RunningRelay | null = null
  return createWorker(
    { ...options, poolSize: 2 },
    {
      kind: 'relay',
      consumer: null,
      id: () => relay?.membership.id ?? null,
      probe: async () => options.broker.probe?.(),
      start: async (database) => {
        relay = new RunningRelay(database, options, settings, failover, failpoint)
        await relay.start()
      },
      stop: async () => relay?.stop(),
    },
  )
}
