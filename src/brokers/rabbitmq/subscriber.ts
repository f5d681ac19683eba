import { BrokerError } from '../../base/errors.ts'
import type { OnBatch, SubscribeOptions, Subscription } from '../broker.ts'
import { insist, keepConsuming, type Consuming } from '../consuming.ts'
import { keepBound, unbind } from './bindings.ts'
import { openConsumption, type Consumption, type Source } from './consumption.ts'
import { openLink } from './connection.ts'
import { toBrokerError } from './errors.ts'
import { toIncoming } from './incoming.ts'
import type { Settings } from './options.ts'
import { onAbort, pause, within } from '../../base/waiting.ts'
import { reconnectMs } from '../../base/loop.ts'
import { reopening } from './reopening.ts'
import { limits } from '../../base/options.ts'
import { createWindow } from './window.ts'

export interface Subscriber {
  readonly subscribe: (options: SubscribeOptions, onBatch: OnBatch) => Promise<Subscription>
  readonly unsubscribe: (options: Pick<SubscribeOptions, 'consumer' | 'topics'>) => Promise<void>
  close(): Promise<void>
}

/** After so long without trouble, the next trouble is a new one and is met with a short pause again. */
const calmMs = 10_000

/** One connection for all that is received, apart from the sender's: a blocked sender must not block acknowledging. */
export function createSubscriber(settings: Settings): Subscriber {
  const life = new AbortController()
  const link = reopening(() => openLink(settings, 'receiver', life.signal))
  const subscriptions = new Set<Subscription>()

  async function subscribe(options: SubscribeOptions, onBatch: OnBatch): Promise<Subscription> {
    if (life.signal.aborted) throw closed()
    const source = toSource(options, settings)
    const open = async (): Promise<Consumption> => {
      const opened = await link.get()
      const consumption = await openConsumption(opened, settings, source)
      void keepBound(opened, settings, source, consumption.ended)
      return consumption
    }
    return keepConsuming(subscriptions, options, (consuming) =>
      consumeUntilStopped(open, options, onBatch, consuming),
    )
  }

  async function unsubscribe({
    consumer,
    topics,
  }: Pick<SubscribeOptions, 'consumer' | 'topics'>): Promise<void> {
    if (life.signal.aborted) throw closed()
    const queue = toQueue(consumer, settings)
    await unbind(await link.get(), settings, queue, topics)
  }

  async function close(): Promise<void> {
    if (life.signal.aborted) return
    const connected = link.current()
    life.abort(closed())
    await Promise.all([...subscriptions].map((subscription) => subscription.stop()))
    await connected?.then((opened) => opened.close()).catch(() => {})
  }

  return { subscribe, unsubscribe, close }
}

/** Consumes until stopped, over any number of channels, one after the other. */
async function consumeUntilStopped(
  open: () => Promise<Consumption>,
  options: SubscribeOptions,
  onBatch: OnBatch,
  consuming: Consuming,
): Promise<void> {
  const { signal, tried, report } = consuming

  async function consume(consumption: Consumption): Promise<void> {
    const stopListening = onAbort(signal, consumption.stop)
    onAbort(consumption.ended, () => {
      const reason: unknown = consumption.ended.reason
      if (reason instanceof BrokerError) report(reason)
    })
    try {
      for (;;) {
        const deliveries = await consumption.take(options)
        if (deliveries === null) break
        const taken = await insist(deliveries.map(toIncoming), onBatch, consumption.ended, consuming)
        if (taken) consumption.acknowledge(deliveries.at(-1)!)
      }
    } finally {
      stopListening()
      await consumption.close()
    }
  }

  for (let failures = 0; !signal.aborted; failures++) {
    const startedAt = performance.now()
    let well = false
    try {
      const consumption = await within(signal, open(), (late) => late.close())
      tried()
      options.onReceiving?.()
      await consume(consumption)
      well = consumption.ended.reason === null
    } catch (error) {
      if (!signal.aborted) report(toBrokerError('Could not receive from RabbitMQ', error))
      tried()
    }
    if (well || performance.now() - startedAt > calmMs) failures = 0
    await pause(reconnectMs(failures + 1, 100, 5000), signal)
  }
}

/** @throws BrokerError if the names cannot be those of a queue and its bindings. */
function toSource(
  { consumer, topics, batchSize, batchBytes = limits.batchBytes }: SubscribeOptions,
  settings: Settings,
): Source {
  const window = createWindow(settings.prefetch ?? Math.min(2 * batchSize, 65_535), batchBytes)
  return { queue: toQueue(consumer, settings), topics, window }
}

function toQueue(consumer: string, settings: Settings): string {
  let queue: string
  try {
    queue = settings.queue(consumer)
  } catch (cause) {
    throw new BrokerError('config', `The option queue threw for consumer "${consumer}".`, { cause })
  }
  // Empty is the server's cue to make up a name, and every restart of the receiver would leave a queue behind.
  if (typeof queue !== 'string' || queue === '' || Buffer.byteLength(queue) > 255) {
    throw new BrokerError('config', `The queue of consumer "${consumer}" needs a name of 1 to 255 bytes.`)
  }
  return queue
}

const closed = (): BrokerError => new BrokerError('config', 'This RabbitMQ broker has been closed.')
