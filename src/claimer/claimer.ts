import {
  handlersByTopic,
  refuseRuns,
  type HandlerEntry,
  type Handlers,
  type LibraryContext,
} from './handlers.ts'
import {
  readSettings,
  unknownPolicies,
  type AnyClaimerOptions,
  type ClaimerOptions,
  type LibraryClaimerOptions,
} from './options.ts'
import { RunningClaimer, type ClaimerParts } from './running.ts'
import type { UnhandledOptions } from './unhandled.ts'
import { asJudged } from './verdict.ts'
import { OptionError } from '../base/errors.ts'
import { noFailpoint, type Failpoint } from '../base/failpoint.ts'
import { oneOf, readBoolean } from '../base/options.ts'
import { readTopics, type Topics } from '../topics/topics.ts'
import type { RegisteredTopics } from '../topics/types.ts'
import { readFailover } from '../membership/failover.ts'
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
export function createClaimer<Tx, Defined extends Topics = RegisteredTopics>(
  options: LibraryClaimerOptions<Tx, Defined>,
  handlers: Handlers<never, Defined, LibraryContext<Tx>>,
  failpoint?: Failpoint,
): Worker
export function createClaimer<Tables = unknown, Defined extends Topics = RegisteredTopics>(
  options: ClaimerOptions<Defined>,
  handlers: Handlers<Tables, Defined>,
  failpoint?: Failpoint,
): Worker
export function createClaimer(
  options: AnyClaimerOptions,
  handlers: object,
  failpoint: Failpoint = noFailpoint,
): Worker {
  return claimerWith(options, handlers, { failpoint, pacing: asJudged })
}

/** The same for tests, which see into it. */
export function claimerWith(
  options: AnyClaimerOptions,
  handlers: object,
  seen: Pick<ClaimerParts, 'failpoint' | 'pacing'>,
): Worker {
  const settings = readSettings(options)
  if (typeof handlers !== 'object' || handlers === null) {
    throw new OptionError(
      'handlers',
      'createClaimer takes an object of handlers by topic as its second argument.',
    )
  }
  const topics = readTopics('createClaimer', options.topics)
  const given = handlers as unknown as Readonly<Record<string, HandlerEntry<never>>>
  if (options.transaction !== undefined) refuseRuns(given, settings.runSize)
  const handlerOf = handlersByTopic(given, { ...settings, onDead: options.onDead ?? 'park' }, topics)
  const unhandled: UnhandledOptions = {
    policy: oneOf('unknown', options.unknown, unknownPolicies),
    topics:
      topics === null
        ? Object.keys(handlers)
        : topics.names.filter((topic) => handlerOf(topic) !== undefined),
    handles: (topic) => handlerOf(topic) !== undefined,
  }
  const failover = readFailover(options.failover)
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
          topics,
          unhandled,
          circuit,
          ...seen,
        })
        await claimer.start()
      },
      stop: async () => claimer?.stop(),
    },
  )
}
