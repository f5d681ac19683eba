import { noFailpoint, type Failpoint } from '../base/failpoint.ts'
import { createWorker, type Worker } from '../membership/worker.ts'
import { readSettings, type ReceiverOptions } from './options.ts'
import { RunningReceiver } from './running.ts'

/**
 * Creates a receiver: a worker that writes a consumer's deliveries from the broker into its inbox.
 *
 * A delivery is acknowledged only after the inbox has it, and the inbox takes each message once inside the dedupe
 * window. While the database is out of reach the receiver waits with what it has; nothing is sent back to the broker,
 * whose delivery limit would drop it.
 *
 * With the Postgres broker there is nothing to receive, since the relay writes to the inbox itself: the receiver then
 * keeps the subscription.
 *
 * @throws OptionError
 */
export function createReceiver(options: ReceiverOptions, failpoint: Failpoint = noFailpoint): Worker {
  const settings = readSettings(options)
  let receiver: RunningReceiver | null = null
  return createWorker(
    { ...options, poolSize: 3 },
    {
      kind: 'receiver',
      consumer: options.consumer,
      id: () => receiver?.registration.id ?? null,
      probe: async () => options.broker.probe?.(options.consumer),
      start: async (database) => {
        receiver = new RunningReceiver(database, settings, failpoint)
        await receiver.start()
      },
      stop: async () => receiver?.stop(),
    },
  )
}
