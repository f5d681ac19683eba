import { handlersByTopic, type Handlers } from './handlers.ts'
import { readSettings, unknownPolicies, type ClaimerOptions } from './options.ts'
import { RunningClaimer } from './running.ts'
import type { UnhandledOptions } from './unhandled.ts'
import { OptionError } from '../base/errors.ts'
import { noFailpoint, type Failpoint } from '../base/failpoint.ts'
import { oneOf, readBoolean } from '../base/options.ts'
import { failoverStrategies } from '../membership/failover.ts'
import { createWorker, type Worker } from '../membership/worker.ts'

/**
 * Creates a claimer: a worker that takes a consumer's messages from the inbox and runs their handlers.
 *
 * Effectively once: a handler that works in the transaction it is given commits its effects and the completion
 * together, or not at all. Messages with a key are handled one at a time per key, in order; messages without one by
 * whoever is free. When a claimer dies, the others take over what it held.
 *
 * Not promised: effects outside of the transaction happen at least once; give `idempotencyKey` to other systems.
 *
 * @throws OptionError
 */
export function createClaimer<Tables = unknown>(
  options: ClaimerOptions,
  handlers: Handlers<Tables>,
  failpoint: Failpoint = noFailpoint,
): Worker {
  const settings = readSettings(options)
  if (typeof handlers !== 'object' || handlers === null) {
    throw new OptionError(
      'handlers',
      'createClaimer takes an object of handlers by topic as its second argument.',
    )
  }
  const handlerOf = handlersByTopic(handlers as Handlers<never>, {
    ...settings,
    onDead: options.onDead ?? 'park',
  })
  const unhandled: UnhandledOptions = {
    policy: oneOf('unknown', options.unknown, unknownPolicies),
    topics: Object.keys(handlers),
    handles: (topic) => handlerOf(topic) !== undefined,
  }
  const failover = oneOf('failover', options.failover, failoverStrategies)
  const avoidLastHolder = readBoolean('avoidLastHolder', options.avoidLastHolder, false)
  const circuit = readBoolean('circuit', options.circuit, true)
  let claimer: RunningClaimer | null = null
  return createWorker(
    { ...options, poolSize: settings.concurrency },
    {
      kind: 'claimer',
      consumer: options.consumer,
      id: () => claimer?.membership.id ?? null,
      start: async (database) => {
        const sharing = { failover, avoidLastHolder }
        claimer = new RunningClaimer(database, options, {
          settings,
          sharing,
          handlerOf,
          unhandled,
          circuit,
          failpoint,
        })
        await claimer.start()
      },
      stop: async () => claimer?.stop(),
    },
  )
}
