import { afterEach } from 'vitest'
import { Dealer, Router, type SocketOptions } from 'zeromq'
import { freePort } from '../../../proof/stage/postgres.ts'
import type { Broker, OnBatch, SubscribeOptions } from '../../../src/brokers/broker.ts'
import type { BrokerError } from '../../../src/base/errors.ts'
import { zeromq, type ZeromqOptions } from '../../../src/brokers/zeromq/zeromq.ts'

export const never: AbortSignal = new AbortController().signal

export interface Fixture {
  /** A broker, closed after the test. */
  readonly make: (options: ZeromqOptions) => Broker
  /** Listens at an address, for `billing` unless it is told another. */
  readonly listen: (address: string, onBatch: OnBatch, more?: Listening) => Promise<Broker>
  /** Sockets of other programs. */
  readonly dealer: (address: string, options?: SocketOptions<Dealer>) => Dealer
  readonly router: (address: string) => Promise<Router>
}

export interface Listening extends Partial<SubscribeOptions> {
  readonly options?: Partial<ZeromqOptions>
}

export const newAddress = async (): Promise<string> => `tcp://127.0.0.1:${await freePort()}`

export function useFixture(): Fixture {
  const closers: (() => unknown)[] = []
  afterEach(async () => {
    await Promise.all(closers.splice(0).map((close) => close()))
  })
  const make = (options: ZeromqOptions): Broker => {
    const broker = zeromq(options)
    closers.push(() => broker.close())
    return broker
  }
  return {
    make,
    listen: async (address, onBatch, { options = {}, ...more } = {}) => {
      const broker = make({ bind: address, ...options })
      const troubles: BrokerError[] = []
      const onTrouble = (trouble: BrokerError): void => void troubles.push(trouble)
      await broker.subscribe(
        { consumer: 'billing', topics: ['#'], batchSize: 100, onTrouble, ...more },
        onBatch,
      )
      return broker
    },
    dealer: (address, options = {}) => {
      const dealer = new Dealer({ linger: 0, sendTimeout: 5000, receiveTimeout: 20_000, ...options })
      closers.push(() => dealer.close())
      dealer.connect(address)
      return dealer
    },
    router: async (address) => {
      const router = new Router({ linger: 0, receiveTimeout: 20_000 })
      closers.push(() => router.close())
      await router.bind(address)
      return router
    },
  }
}
