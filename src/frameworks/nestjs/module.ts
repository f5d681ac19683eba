import {
  ConfigurableModuleBuilder,
  Logger as NestLogger,
  Module,
  type ConfigurableModuleAsyncOptions,
  type DynamicModule,
  type OnApplicationBootstrap,
  type OnModuleDestroy,
} from '@nestjs/common'
import { DiscoveryModule, DiscoveryService } from '@nestjs/core'
import { OptionError } from '../../base/errors.ts'
import type { TwinboxEvent } from '../../base/events.ts'
import { refuseUnknown } from '../../base/options.ts'
import type { Opener } from '../../claimer/opener.ts'
import type { AnyConsumerConfig, ConsumerConfig } from '../../config.ts'
import type { Logger } from '../../observe/logging.ts'
import {
  Application,
  applicationOptionNames,
  readConsumers,
  type ApplicationOptions,
} from '../application.ts'
import { outboxToken } from './decorators.ts'
import { findHandlers } from './handlers.ts'
import { TwinboxHealthIndicator } from './health.ts'

/** A consumer; what handles its messages are methods with `@HandlesTopic`. */
export interface NestConsumer extends Omit<ConsumerConfig, 'topics' | 'handlers' | 'transaction'> {
  /** Topic names or AMQP patterns to receive. @default those that its methods handle */
  readonly topics?: readonly string[] | undefined
  /** `inTransaction((run) => prisma.$transaction(run))`: who opens the transactions of its methods. @default Twinbox */
  // oxlint-disable-next-line no-explicit-any
  readonly transaction?: Opener<any> | undefined
}

export interface TwinboxModuleOptions extends ApplicationOptions {
  /** By name. */
  readonly consumers?: Readonly<Record<string, NestConsumer>> | undefined
}

/** What makes the options of `forRootAsync`, if it is a class: `useClass`, `useExisting`. */
export interface TwinboxOptionsFactory {
  createTwinboxOptions(): TwinboxModuleOptions | Promise<TwinboxModuleOptions>
}
export type TwinboxModuleAsyncOptions = ConfigurableModuleAsyncOptions<
  TwinboxModuleOptions,
  'createTwinboxOptions'
>

const { ConfigurableModuleClass, MODULE_OPTIONS_TOKEN } = new ConfigurableModuleBuilder<TwinboxModuleOptions>(
  {
    moduleName: 'Twinbox',
  },
)
  .setClassMethodName('forRoot')
  .setFactoryMethodName('createTwinboxOptions')
  .setExtras({}, (definition) => ({ ...definition, global: true }))
  .build()

const log = new NestLogger('Twinbox')

/** Nest shows `debug` unless it is told not to, which would be three lines for each message. */
const logger: Logger = {
  debug: () => {},
  info: (facts, text) => log.log(sentenceOf(facts, text)),
  warn: (facts, text) => log.warn(sentenceOf(facts, text)),
  error: (facts, text) => log.error(sentenceOf(facts, text)),
}
function sentenceOf(facts: object, text: string): string {
  const { kind, consumer, workerId } = facts as TwinboxEvent
  return `${[kind, consumer, workerId].filter((part) => part !== null).join(' ')}: ${text}`
}

/** What every module may inject. It is global, so Nest starts it first and ends it last. */
class TwinboxCore extends ConfigurableModuleClass {}
Module({
  providers: [
    {
      provide: Application,
      useFactory: (options: TwinboxModuleOptions) => {
        refuseUnknown('TwinboxModule', options, [...applicationOptionNames, 'consumers'])
        return new Application('TwinboxModule', options, logger)
      },
      inject: [MODULE_OPTIONS_TOKEN],
    },
    { provide: outboxToken, useFactory: ({ outbox }: Application) => outbox, inject: [Application] },
    {
      provide: TwinboxHealthIndicator,
      useFactory: (application: Application) => new TwinboxHealthIndicator(application),
      inject: [Application],
    },
  ],
  exports: [Application, outboxToken, TwinboxHealthIndicator, MODULE_OPTIONS_TOKEN],
})(TwinboxCore)

/**
 * Starts the workers when the application has started, and stops them first of all when it stops. Not a part of the global module: that one
 * would start before what handlers need has started, and stop after it is gone.
 */
class Lifecycle implements OnApplicationBootstrap, OnModuleDestroy {
  readonly #application: Application
  readonly #options: TwinboxModuleOptions
  readonly #discovery: DiscoveryService

  constructor(application: Application, options: TwinboxModuleOptions, discovery: DiscoveryService) {
    this.#application = application
    this.#options = options
    this.#discovery = discovery
  }

  async onApplicationBootstrap(): Promise<void> {
    const { kinds } = this.#application
    const modules = this.#discovery.getProviders().filter(({ token }) => token === Application)
    if (modules.length > 1)
      throw new OptionError(
        'imports',
        'TwinboxModule.forRoot is there twice: import it once, in the root module.',
      )
    await this.#application.start(this.#consumers())
    if (kinds.length > 0 && process.listenerCount('SIGTERM') === 0)
      log.warn(
        'SIGTERM will end this process at once, with handlers under way: call app.enableShutdownHooks() before app.listen().',
      )
  }

  async onModuleDestroy(): Promise<void> {
    await this.#application.stop()
  }

  /** With their handlers. Where no claimer runs, a handler is not called, and may be missing. */
  #consumers(): [string, AnyConsumerConfig][] {
    const described = readConsumers(this.#options.consumers)
    const { kinds } = this.#application
    if (kinds.length === 0) return []
    const found = findHandlers(
      this.#discovery,
      described.map(([name]) => name),
    )
    return described.map(([name, consumer]) => {
      const handlers = found.get(name)!
      const handled = Object.keys(handlers)
      const topics = consumer.topics ?? handled
      if (handled.length === 0 && (kinds.includes('claimer') || topics.length === 0))
        throw new OptionError(
          'consumers',
          `Nothing handles a topic for the consumer "${name}": write @HandlesTopic('…') at a method of a provider, and have a module provide it.`,
        )
      return [name, { ...consumer, topics, handlers } as AnyConsumerConfig]
    })
  }
}

const lifecycle = {
  provide: Lifecycle,
  useFactory: (application: Application, options: TwinboxModuleOptions, discovery: DiscoveryService) =>
    new Lifecycle(application, options, discovery),
  inject: [Application, MODULE_OPTIONS_TOKEN, DiscoveryService],
}

/**
 * Twinbox in a Nest application: import it once, in the root module. It provides the outbox (`@InjectOutbox()`) and
 * `TwinboxHealthIndicator` everywhere, and runs the workers: they start when the application has started, and `app.close()` waits for the handlers under way,
 * before anything else ends. A worker that cannot start rejects the start of the application. A signal closes the
 * application only after `app.enableShutdownHooks()`.
 */
// oxlint-disable-next-line no-extraneous-class
export class TwinboxModule {
  /** @throws OptionError when the application starts, for options that cannot work */
  static forRoot(options: TwinboxModuleOptions): DynamicModule {
    return around(TwinboxCore.forRoot(options))
  }

  /** The same with options that are made: `{ imports, inject, useFactory }`, `useClass` or `useExisting`. */
  static forRootAsync(options: TwinboxModuleAsyncOptions): DynamicModule {
    return around(TwinboxCore.forRootAsync(options))
  }
}
Module({})(TwinboxModule)

const around = (core: DynamicModule): DynamicModule => ({
  module: TwinboxModule,
  imports: [core, DiscoveryModule],
  providers: [lifecycle],
})
