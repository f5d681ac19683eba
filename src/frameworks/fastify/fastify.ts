import type { FastifyInstance } from 'fastify'
import { OptionError } from '../../base/errors.ts'
import { readBoolean, refuseUnknown } from '../../base/options.ts'
import type { AnyConsumerConfig } from '../../config.ts'
import { answerProbe, isToken, type Probe } from '../../observe/probe.ts'
import type { Outbox } from '../../outbox/outbox.ts'
import type { Topics } from '../../topics/topics.ts'
import type { RegisteredTopics } from '../../topics/types.ts'
import {
  Application,
  applicationOptionNames,
  readConsumers,
  type ApplicationOptions,
} from '../application.ts'

export interface HealthRoutes {
  /** Where they are: `/live` and `/ready` below it. @default '/health' */
  readonly prefix?: string | undefined
  /**
   * Who sends it as `Authorization: Bearer …` is also told what is wrong, with names of consumers, topics and hosts. Others are told
   * whether all is well. @default nobody is told more
   */
  readonly token?: string | undefined
}

export interface TwinboxFastifyOptions<
  Tables = unknown,
  Defined extends Topics = RegisteredTopics,
  Tx = unknown,
> extends Omit<ApplicationOptions, 'topics'> {
  /** What `defineTopics` gives. @default any topic, any payload */
  readonly topics?: Defined | undefined
  /** What is received and handled in this process, by name. */
  readonly consumers?: Readonly<Record<string, AnyConsumerConfig<Tables, Defined, Tx>>> | undefined
  /** Adds `GET /health/live` and `GET /health/ready`: 200, or 503. @default false */
  readonly health?: boolean | HealthRoutes | undefined
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Of `twinbox/fastify`. */
    readonly outbox: Outbox
  }
}

/**
 * Twinbox in a Fastify application: `await fastify.register(twinboxFastify, { database, broker, consumers })`. It decorates the
 * application with `outbox`, starts the workers before `listen` or `ready` resolves, and stops them in `close`, which waits for the
 * handlers under way. A worker that cannot start rejects the start of the application. Fastify ends what was registered last first: register it behind what
 * handlers use. No signal closes the application by itself.
 *
 * @throws OptionError for options that cannot work
 */
export async function twinboxFastify<
  Tables = unknown,
  Defined extends Topics = RegisteredTopics,
  Tx = unknown,
>(fastify: FastifyInstance, options: TwinboxFastifyOptions<Tables, Defined, Tx>): Promise<void> {
  const { consumers, health = false, ...rest } = options
  refuseUnknown('twinboxFastify', rest, applicationOptionNames)
  const application = new Application('twinboxFastify', rest, fastify.log)
  const { outbox } = application
  fastify.decorate('outbox', outbox)
  addRoutes(fastify, application, health)
  const described = readConsumers(consumers as Readonly<Record<string, AnyConsumerConfig>> | undefined)
  fastify.addHook('onReady', () => application.start(described))
  fastify.addHook('onClose', () => application.stop())
}

function addRoutes(fastify: FastifyInstance, application: Application, health: boolean | HealthRoutes): void {
  const routes = typeof health === 'object' && health !== null ? health : null
  if (routes === null && !readBoolean('health', health, false)) return
  const { prefix = '/health', token } = routes ?? {}
  if (routes !== null) refuseUnknown('health', routes, ['prefix', 'token'])
  if (typeof prefix !== 'string' || !/^(\/[\w.~-]+)+$/.test(prefix))
    throw new OptionError('health', 'prefix of health must be a path such as /health.')
  // A secret that was not there when it was to be filled in.
  if (token !== undefined && (typeof token !== 'string' || token === ''))
    throw new OptionError(
      'health',
      'token of health must be text that is not empty. Leave it out to tell nobody what is wrong.',
    )
  for (const probe of ['live', 'ready'] satisfies Probe[]) {
    fastify.get(`${prefix}/${probe}`, { logLevel: 'warn' }, async (request, reply) => {
      const knows = token !== undefined && isToken(request.headers.authorization, token)
      const { status, body } = answerProbe(probe, await application.check(), knows)
      return reply.code(status).header('cache-control', 'no-store').type('application/json').send(body)
    })
  }
}

/** As Fastify's own plugins do: what it adds is there for the whole application, and for nobody but its children otherwise. */
Object.assign(twinboxFastify, {
  [Symbol.for('skip-override')]: true,
  [Symbol.for('fastify.display-name')]: 'twinbox',
  [Symbol.for('plugin-meta')]: { name: 'twinbox', fastify: '5.x' },
})
