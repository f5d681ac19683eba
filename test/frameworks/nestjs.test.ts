import {
  Inject,
  Injectable,
  Logger,
  Module,
  Scope,
  type DynamicModule,
  type INestApplicationContext,
  type Provider,
  type Type,
} from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import type { ClientBase } from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { postgres } from '../../src/brokers/postgres/postgres.ts'
import type { LibraryContext, TransactionContext } from '../../src/claimer/handlers.ts'
import {
  HandlesTopic,
  InjectOutbox,
  outboxToken,
  TwinboxHealthIndicator,
  TwinboxModule,
  type HandlesTopicOptions,
  type TwinboxModuleOptions,
} from '../../src/frameworks/nestjs/nestjs.ts'
import { rabbitmq } from '../../src/brokers/rabbitmq/rabbitmq.ts'
import { inTransaction, type Message, type Outbox } from '../../src/index.ts'
import { recordEvents, type Recorder } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/** Nest itself, without HTTP. What its decorators do is a call, so that the tests need no compiler of their own. */

let database: TestDatabase
let events: Recorder
const apps: INestApplicationContext[] = []
beforeAll(async () => {
  database = await createTestDatabase()
})
beforeEach(() => {
  events = recordEvents()
})
afterEach(async () => {
  for (const app of apps.splice(0)) await app.close()
  await database.query('truncate twinbox.outbox, twinbox.inbox, twinbox.subscription')
})
afterAll(() => database.drop())

/** `@HandlesTopic(topic, options)` at a method. */
function handles(made: Type, method: string, topic: string, options?: HandlesTopicOptions): void {
  const descriptor = Object.getOwnPropertyDescriptor(made.prototype, method)!
  HandlesTopic(topic, options)(made.prototype as object, method, descriptor)
}
const module = (name: string, about: Parameters<typeof Module>[0]): Type => {
  const made = {
    [name]: class {
      readonly root = true
    },
  }[name]!
  Module(about)(made)
  return made
}
const options = (more: TwinboxModuleOptions = {}): TwinboxModuleOptions => ({
  database: database.url,
  broker: postgres({ database: database.url }),
  consumers: { billing: {} },
  onEvent: events.onEvent,
  ...more,
})

/** Starts an application with these providers; what it throws is what `app.listen()` would throw. */
async function start(
  twinbox: DynamicModule | TwinboxModuleOptions,
  providers: Provider[] = [],
  imports: Parameters<typeof Module>[0]['imports'] = [],
): Promise<INestApplicationContext> {
  const dynamic = 'module' in twinbox ? twinbox : TwinboxModule.forRoot(twinbox)
  const root = module('AppModule', { imports: [dynamic, ...imports], providers })
  const app = await NestFactory.createApplicationContext(root, { logger: false, abortOnError: false })
  apps.push(app)
  return app
}

const publish = (app: INestApplicationContext, topic: string, key: string, payload: unknown = {}) =>
  database.transaction((client) => app.get<Outbox>(outboxToken).publish(client, { topic, key, payload }))

/** A service, and a provider with handlers that gets it injected. */
const handled: string[] = []
class Rates {
  readonly factor = 2
}
class Billing {
  readonly rates: Rates
  constructor(rates: Rates) {
    this.rates = rates
  }
  placed(message: Message<{ total: number }>, context: TransactionContext<unknown>) {
    handled.push(`${message.key} ${message.payload.total * this.rates.factor} ${typeof context.client.query}`)
  }
}
Injectable()(Billing)
Inject(Rates)(Billing, undefined, 0)
handles(Billing, 'placed', 'order.placed')

describe('an application', () => {
  test('handles with what was injected, and publishes', async () => {
    const app = await start(options(), [Billing, Rates])
    await publish(app, 'order.placed', 'o1', { total: 21 })
    await events.next('handled')
    expect(handled.splice(0)).toEqual(['o1 42 function'])
    const [topic] = await database.query('select pattern as topic from twinbox.subscription')
    expect(topic).toEqual({ topic: 'order.placed' })
  })

  test('gets its options from a factory, and several consumers have methods of their own', async () => {
    class Two {
      billed: string[] = []
      bill({ key }: Message) {
        this.billed.push(`bill ${key}`)
      }
      async ship(messages: readonly Message[]) {
        this.billed.push(...messages.map(({ key }) => `ship ${key}`))
      }
    }
    Injectable()(Two)
    handles(Two, 'bill', 'order.placed', { consumer: 'billing' })
    handles(Two, 'ship', 'order.*', { consumer: 'shipping', batch: true, transaction: false })
    handles(Two, 'ship', 'parcel.lost', { consumer: 'shipping', batch: true })
    const url = { provide: 'url', useValue: database.url }
    const config = module('ConfigModule', { providers: [url], exports: ['url'] })
    const app = await start(
      TwinboxModule.forRootAsync({
        imports: [config],
        inject: ['url'],
        useFactory: async (at: string) => options({ database: at, consumers: { billing: {}, shipping: {} } }),
      }),
      [Two],
    )
    await publish(app, 'order.placed', 'o1')
    await publish(app, 'parcel.lost', 'o2')
    await events.next('handled', () => true, 3)
    expect(app.get(Two).billed.toSorted()).toEqual(['bill o1', 'ship o1', 'ship o2'])
  })

  test('a controller handles too, one instance under two tokens once, and what a class inherits', async () => {
    class Base {
      log: string[] = []
      placed({ key }: Message) {
        this.log.push(`base ${key}`)
      }
    }
    handles(Base, 'placed', 'order.placed')
    class Derived extends Base {
      override placed(message: Message) {
        super.placed(message)
        this.log.push('derived')
      }
    }
    Injectable()(Derived)
    const instance = new Derived()
    const providers = [
      { provide: Derived, useValue: instance },
      { provide: 'other', useExisting: Derived },
      { provide: 'again', useFactory: () => instance },
    ]
    const app = await start(options(), providers)
    await publish(app, 'order.placed', 'o1')
    await events.next('handled')
    expect(instance.log).toEqual(['base o1', 'derived'])
  })

  test('gets its options from a class, and runs methods in transactions of a data library', async () => {
    class Options {
      createTwinboxOptions() {
        const transaction = inTransaction((run) => database.transaction(run))
        return options({ consumers: { billing: { transaction } } })
      }
    }
    Injectable()(Options)
    const told: unknown[] = []
    class InTheirs {
      async placed({ key }: Message, { tx }: LibraryContext<ClientBase>) {
        told.push(key, (await tx.query('select 1 as one')).rows)
      }
    }
    Injectable()(InTheirs)
    handles(InTheirs, 'placed', 'order.placed')
    const app = await start(TwinboxModule.forRootAsync({ useClass: Options }), [InTheirs])
    await publish(app, 'order.placed', 'o1')
    await events.next('handled')
    expect(told).toEqual(['o1', [{ one: 1 }]])
  })

  test('that only publishes needs neither database nor broker, runs nothing, and is well', async () => {
    class Shop {
      readonly outbox: Outbox
      constructor(outbox: Outbox) {
        this.outbox = outbox
      }
    }
    Injectable()(Shop)
    InjectOutbox()(Shop, undefined as never, 0)
    const app = await start({ workers: [] }, [Shop, Billing, Rates])
    expect(app.get(Shop).outbox).toBe(app.get(outboxToken))
    await publish(app, 'order.placed', 'o1')
    expect(await database.query('select topic from twinbox.outbox')).toEqual([{ topic: 'order.placed' }])
    expect(await database.query(`select from twinbox.worker where ended_by is null`)).toEqual([])
    expect(await app.get(TwinboxHealthIndicator).ready()).toEqual({ twinbox: { status: 'up' } })
  })

  test('that only receives and relays needs no handlers', async () => {
    const app = await start(
      options({ workers: ['receiver', 'relay'], consumers: { billing: { topics: ['order.*'] } } }),
    )
    expect(events.of('started').map(({ kind }) => kind)).toEqual(['receiver', 'relay'])
    expect(await app.get(TwinboxHealthIndicator).live('x')).toEqual({ x: { status: 'up' } })
  })

  test('tells its health, without names unless it is asked for them', async () => {
    const app = await start(options(), [Billing, Rates])
    const indicator = app.get(TwinboxHealthIndicator)
    expect(await indicator.ready()).toEqual({ twinbox: { status: 'up' } })
    await app.close()
    expect(await indicator.ready('box')).toEqual({ box: { status: 'down' } })
    expect(await indicator.ready('box', { problems: true })).toMatchObject({
      box: { status: 'down', problems: [{ who: 'application', why: expect.stringContaining('stopped') }] },
    })
    expect(await indicator.live('box')).toEqual({ box: { status: 'up' } })
  })
})

describe('when it stops', () => {
  // As data libraries are provided: by a global module, or by one that others import.
  test.each([true, false])(
    'a handler under way ends before what it needs is gone (global: %s)',
    async (global) => {
      const order: string[] = []
      let begin = (): void => {}
      let end = (): void => {}
      const begun = new Promise<void>((resolve) => (begin = resolve))
      const ended = new Promise<void>((resolve) => (end = resolve))
      class Store {
        open = true
        onModuleDestroy(): void {
          this.open = false
          order.push('store closed')
        }
      }
      class Slow {
        readonly store: Store
        constructor(store: Store) {
          this.store = store
        }
        async placed(): Promise<void> {
          begin()
          await ended
          order.push(this.store.open ? 'handled' : 'too late')
        }
      }
      Injectable()(Slow)
      Inject(Store)(Slow, undefined, 0)
      handles(Slow, 'placed', 'order.placed')
      const data: DynamicModule = { module: module('Data', {}), global, providers: [Store], exports: [Store] }
      const feature = module('Feature', { imports: global ? [] : [data], providers: [Slow] })
      const app = await start(options(), [], global ? [data, feature] : [feature])
      await publish(app, 'order.placed', 'o1')
      await begun
      const closed = app.close()
      await events.next('stopped', ({ kind }) => kind === 'relay')
      end()
      await closed
      expect(order).toEqual(['handled', 'store closed'])
      expect(await database.query('select from twinbox.inbox')).toEqual([])
    },
  )

  test('it says that a signal would end it at once, unless somebody listens', async () => {
    const told: string[] = []
    Logger.overrideLogger({ log() {}, error() {}, warn: (text: string) => void told.push(text) })
    try {
      const root = module('AppModule', {
        imports: [TwinboxModule.forRoot(options())],
        providers: [Billing, Rates],
      })
      const listeners = process.listeners('SIGTERM')
      process.removeAllListeners('SIGTERM')
      try {
        const app = await NestFactory.createApplicationContext(root, { abortOnError: false })
        await app.close()
        expect(told.splice(0)).toEqual([expect.stringContaining('enableShutdownHooks')])
        const listening = () => {}
        process.on('SIGTERM', listening)
        const again = await NestFactory.createApplicationContext(
          module('AppModule', { imports: [TwinboxModule.forRoot(options())], providers: [Billing, Rates] }),
        )
        await again.close()
        process.off('SIGTERM', listening)
        expect(told).toEqual([])
      } finally {
        for (const listener of listeners) process.on('SIGTERM', listener)
      }
    } finally {
      Logger.overrideLogger(false)
    }
  })
})

describe('it does not start', () => {
  const made = (
    name: string,
    topic = 'order.placed',
    about: HandlesTopicOptions = {},
    scope?: Scope,
  ): Type => {
    const One = {
      [name]: class {
        placed(): void {}
      },
    }[name]!
    Injectable(scope === undefined ? {} : { scope })(One)
    handles(One, 'placed', topic, about)
    return One
  }

  test.each<[string, RegExp, () => [TwinboxModuleOptions, Provider[]]]>([
    ['without a database', /needs a database.*workers: \[\]/, () => [{}, []]],
    ['without a broker', /needs a broker.*workers: \[\]/, () => [{ database: database.url }, []]],
    [
      'with a misspelt option',
      /databse is not an option of TwinboxModule/,
      () => [{ databse: 1 } as object, []],
    ],
    ['with a worker that is none', /workers must be/, () => [options({ workers: ['relais'] as never }), []]],
    [
      'with another of the outbox',
      /maxPyload is not/,
      () => [options({ outbox: { maxPyload: 1 } as never }), []],
    ],
    [
      'with a misspelt option of a consumer',
      /maxAttempt is not an option of createClaimer/,
      () => [options({ consumers: { billing: { maxAttempt: 1 } as object } }), [made('A')]],
    ],
    [
      'with a misspelt option of a handler',
      /maxAttempt is not an option of the handler of "order.placed"/,
      () => [options(), [made('A', 'order.placed', { maxAttempt: 1 } as object)]],
    ],
    [
      'with a consumer for whom nothing handles',
      /Nothing handles a topic for the consumer "billing"/,
      () => [options(), []],
    ],
    [
      'with a handler of an unknown consumer',
      /A\.placed of the module AppModule handles "order.placed", but its consumer "b" is not described.*billing/,
      () => [options(), [made('A', 'order.placed', { consumer: 'b' })]],
    ],
    [
      'with a handler of one of two consumers',
      /does not say for which consumer.*billing, shipping/,
      () => [options({ consumers: { billing: {}, shipping: {} } }), [made('A')]],
    ],
    [
      'with two handlers of one topic',
      /B\.placed.*but A\.placed of the module AppModule does so too, for the consumer "billing"/,
      () => [options(), [made('A'), made('B')]],
    ],
    [
      'with a handler of a request',
      /A\.placed.*default scope/,
      () => [options(), [made('A', 'order.placed', {}, Scope.REQUEST)]],
    ],
    [
      'with a transient handler',
      /A\.placed.*default scope/,
      () => [options(), [made('A', 'order.placed', {}, Scope.TRANSIENT)]],
    ],
    [
      'with a broker that its options do not allow',
      /use amqps/,
      () => [options({ broker: () => rabbitmq({ url: 'amqp://a:b@example.org' }) }), [made('A')]],
    ],
    [
      'with a function that gives no broker',
      /gives no broker/,
      () => [options({ broker: (() => {}) as never }), [made('A')]],
    ],
  ])('%s', async (_, says, about) => {
    const [twinbox, providers] = about()
    await expect(start(twinbox, providers)).rejects.toThrow(says)
  })

  test('through what a handler needs that is made for each request', async () => {
    class PerRequest {
      readonly request = 1
    }
    Injectable({ scope: Scope.REQUEST })(PerRequest)
    class A {
      placed(): void {}
    }
    Injectable()(A)
    Inject(PerRequest)(A, undefined, 0)
    handles(A, 'placed', 'order.placed')
    await expect(start(options(), [A, PerRequest])).rejects.toThrow(/A\.placed.*default scope/)
  })

  test('twice in one application', async () => {
    const again = TwinboxModule.forRoot(options())
    await expect(start(options(), [made('A')], [module('Other', { imports: [again] })])).rejects.toThrow(
      /forRoot is there twice/,
    )
  })

  test('where tables are missing; then everything that was opened is closed', async () => {
    const empty = await createTestDatabase({ migrated: false })
    try {
      const broker = postgres({ database: database.url })
      let closed = 0
      const close = async (): Promise<void> => {
        closed++
        await broker.close()
      }
      await expect(
        start(options({ database: empty.url, broker: () => ({ ...broker, close }) }), [made('A')]),
      ).rejects.toMatchObject({ code: 'SCHEMA_MISSING' })
      expect(closed).toBe(1)
    } finally {
      await empty.drop()
    }
  })

  test('when the last of its workers cannot; then the others have stopped', async () => {
    const broker = postgres({ database: database.url })
    let asked = 0
    // Asked once by the receiver, then by the relay.
    const probe = async (): Promise<void> => {
      if (++asked === 2) throw new Error('the broker refuses the relay')
    }
    await expect(start(options({ broker: { ...broker, probe } }), [made('A')])).rejects.toThrow(
      'the broker refuses the relay',
    )
    expect(
      events
        .of('stopped')
        .map(({ kind }) => kind)
        .toSorted(),
    ).toEqual(['claimer', 'receiver'])
    expect(await database.query('select from twinbox.worker where ended_by is null')).toEqual([])
  })
})

describe('@HandlesTopic is refused', () => {
  class A {
    static fixed(): void {}
    placed(): void {}
  }
  const at = (target: object, name: string, topic = 't') =>
    HandlesTopic(topic)(target, name, Object.getOwnPropertyDescriptor(target, name) as never)

  test.each<[string, RegExp, () => void]>([
    ['at a static method', /no method of an instance/, () => at(A, 'fixed')],
    ['at a property', /no method of an instance/, () => at(A.prototype, 'field')],
    ['without a topic', /no topic and no pattern/, () => at(A.prototype, 'placed', '')],
    ['with a topic that cannot be', /no topic and no pattern/, () => at(A.prototype, 'placed', 'a b')],
    ['with null', /no topic and no pattern/, () => at(A.prototype, 'placed', null as never)],
    [
      'by a compiler without experimentalDecorators',
      /experimentalDecorators/,
      () => HandlesTopic('t')(A.prototype, { kind: 'method' } as never, undefined as never),
    ],
  ])('%s', (_, says, decorate) => {
    expect(decorate).toThrow(says)
  })
})
