import { BrokerError, describeError } from '../../base/errors.ts'
import { onAbort, pause } from '../../base/waiting.ts'
import type { OnBatch, SubscribeOptions, Subscription } from '../broker.ts'
import { insist, keepConsuming, type Consuming } from '../consuming.ts'
import { openDoor } from './doorkeeper.ts'
import { loadZeromq } from './library.ts'
import { openListener, type Listener } from './listener.ts'
import type { Settings } from './options.ts'

export interface Subscriber {
  readonly subscribe: (options: SubscribeOptions, onBatch: OnBatch) => Promise<Subscription>
  close(): Promise<void>
}

/** So often whoever waits for an address looks whether it is free. */
const lookMs = 250

/** For each subscription a context of its own: ZeroMQ asks one doorkeeper for each. */
export function createSubscriber(settings: Settings): Subscriber {
  const subscriptions = new Set<Subscription>()
  let closed = false

  async function subscribe(options: SubscribeOptions, onBatch: OnBatch): Promise<Subscription> {
    if (closed) throw new BrokerError('config', 'This ZeroMQ broker has been closed.')
    await checkReceiving(settings, options.consumer)
    return keepConsuming(subscriptions, options, (consuming) => listen(settings, options, onBatch, consuming))
  }

  async function close(): Promise<void> {
    closed = true
    await Promise.all([...subscriptions].map((subscription) => subscription.stop()))
  }

  return { subscribe, close }
}

/** Whether there is all that a receiver of this consumer needs. @throws BrokerError */
export async function checkReceiving(settings: Settings, consumer: string): Promise<void> {
  await loadZeromq()
  if (settings.bind === null && !settings.moving && (await settings.consumers!())[consumer] === undefined)
    throw new BrokerError('config', nowhere(consumer))
  if (settings.curve !== null && (await settings.curve()).allow === undefined)
    throw new BrokerError(
      'config',
      `A receiver with curve needs curve.allow, the public keys of those who may send to consumer ${consumer}: by itself ZeroMQ lets in every key.`,
    )
}

const nowhere = (consumer: string): string =>
  `It is not said where consumer ${consumer} listens: give bind, or addresses of it among consumers.`

/** Listens until stopped, at one address after the other if it must. */
async function listen(
  settings: Settings,
  options: SubscribeOptions,
  onBatch: OnBatch,
  consuming: Consuming,
): Promise<void> {
  const { signal, tried, report } = consuming
  const zeromq = await loadZeromq()
  const context = new zeromq.Context()
  const door = settings.curve === null ? null : await openDoor(zeromq, context, settings.curve)

  async function receive(listener: Listener): Promise<void> {
    const stopListening = onAbort(signal, listener.stop)
    try {
      for (;;) {
        const batch = await listener.take()
        if (batch === null) break
        const incoming = batch.map((delivery) => delivery.incoming)
        if (await insist(incoming, onBatch, listener.ended, consuming)) await listener.acknowledge(batch)
      }
    } finally {
      stopListening()
      await listener.close()
    }
    const reason: unknown = listener.ended.reason
    if (reason instanceof BrokerError) report(reason)
  }

  let told = ''
  for (let failures = 0; !signal.aborted; failures++) {
    try {
      const listener = await openOne(settings, options, (address) =>
        openListener(settings, context, address, options),
      )
      tried()
      told = ''
      failures = 0
      options.onReceiving?.()
      await receive(listener)
    } catch (error) {
      const trouble =
        error instanceof BrokerError
          ? error
          : new BrokerError('reconnect', `Could not listen: ${describeError(error)}`, { cause: error })
      // A standby looks often, and says once that it is one.
      if (trouble.message !== told) report(trouble)
      told = trouble.message
      tried()
    }
    if (!signal.aborted) await pause(lookMs, signal)
  }
  door?.close()
}

/** At the first address that is free and belongs to this machine. @throws BrokerError */
async function openOne(
  settings: Settings,
  { consumer }: SubscribeOptions,
  open: (address: string) => Promise<Listener>,
): Promise<Listener> {
  const addresses =
    settings.bind === null
      ? ((await settings.consumers!())[consumer]?.addresses ?? [])
      : [await settings.bind(consumer)]
  if (addresses.length === 0) throw new BrokerError('config', nowhere(consumer))
  const reasons: string[] = []
  for (const address of addresses) {
    try {
      return await open(address)
    } catch (error) {
      if (error instanceof BrokerError) throw error
      reasons.push(`${address} (${describeError(error)})`)
    }
  }
  throw new BrokerError(
    'reconnect',
    `A receiver of consumer ${consumer} waits until it can listen at one of its addresses: ${reasons.join(', ')}.`,
  )
}
