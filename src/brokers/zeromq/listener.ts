import { setTimeout as sleep } from 'node:timers/promises'
import type { Context, Router } from 'zeromq'
import { BrokerError, describeError } from '../../base/errors.ts'
import { limits } from '../../base/options.ts'
import type { IncomingMessage, SubscribeOptions } from '../broker.ts'
import { batchLength, bytesOf } from '../consuming.ts'
import { readFrames, wantedOf } from './frames.ts'
import { loadZeromq } from './library.ts'
import type { Settings } from './options.ts'

/** A message as it came, and whom to tell. */
export interface Delivery {
  readonly from: Buffer
  readonly id: Buffer
  readonly incoming: IncomingMessage
}

/** A socket that listens for one consumer, until it is closed or breaks. */
export interface Listener {
  /** Aborts when there is nothing more to come: null, or a BrokerError if it broke. */
  readonly ended: AbortSignal
  /** Waits for deliveries, and takes of those that are there what makes one batch. Null when it has ended. */
  take(): Promise<Delivery[] | null>
  /** Says `ok` to each. What does not get through comes again. */
  acknowledge(deliveries: readonly Delivery[]): Promise<void>
  /** Takes nothing more, but may still acknowledge. */
  readonly stop: () => void
  close(): Promise<void>
}

/** Kept apart from what it decides: a hundred peers that do not read their answers may not fill the memory. */
const answersMax = 10_000
/** In ZeroMQ's hands, of each connection, beside what is read ahead here. */
const messagesAhead = 100
/** So long the last answers may take to leave after the end. */
const lingerMs = 1000
const lastWordsMs = 50
const beats = 3

/** @throws the library's error if the address is taken or is no address here, and BrokerError */
export async function openListener(
  settings: Settings,
  context: Context,
  address: string,
  options: SubscribeOptions,
): Promise<Listener> {
  const { Router: Socket } = await loadZeromq()
  const keys = await settings.curve?.()
  const { heartbeatMs } = settings
  const router = new Socket({
    context,
    linger: lingerMs,
    ipv6: true,
    // An answer to whoever has gone, or does not read, is thrown away at once and with an error. Others do not wait for it.
    mandatory: true,
    sendTimeout: 0,
    sendHighWaterMark: answersMax,
    receiveHighWaterMark: messagesAhead,
    maxMessageSize: settings.maxMessageBytes,
    heartbeatInterval: heartbeatMs,
    heartbeatTimeout: beats * heartbeatMs,
    handshakeInterval: beats * heartbeatMs,
    ...(keys !== undefined && {
      curveServer: true,
      curveSecretKey: keys.secretKey,
      zapDomain: options.consumer,
    }),
  })
  try {
    await router.bind(address)
  } catch (error) {
    router.close()
    throw error
  }
  return watch(router, options)
}

function watch(
  router: Router,
  { consumer, topics, batchSize, batchBytes = limits.batchBytes }: SubscribeOptions,
): Listener {
  const end = new AbortController()
  let deliveries: Delivery[] = []
  let bytes = 0
  let wake = (): void => {}
  let proceed = (): void => {}
  let last: Promise<void> = Promise.resolve()

  const finish = (reason: BrokerError | null): void => {
    end.abort(reason)
    wake()
    proceed()
  }
  /** One at a time. Who does not get it sends again. */
  const answer = (...frames: readonly (Buffer | string)[]): Promise<void> =>
    (last = last.then(async () => router.send([...frames])).catch(() => {}))

  const take = async ([from = nothing, ...frames]: readonly Buffer[]): Promise<void> => {
    const wanted = wantedOf(from)
    if (wanted !== null && wanted !== consumer)
      return answer(from, '', 'no', `This is consumer ${consumer}, and not ${wanted}.`)
    const { id, delivery } = readFrames(frames, topics)
    if (typeof delivery === 'string') return answer(from, id, 'no', delivery)
    deliveries.push({ from, id, incoming: delivery })
    bytes += bytesOf(delivery)
    wake()
  }
  const listen = async (): Promise<void> => {
    while (!end.signal.aborted) {
      await take(await router.receive())
      // While a batch is written, twice as much is read ahead. The rest stays with whoever sends it.
      while (!end.signal.aborted && (deliveries.length >= 2 * batchSize || bytes >= 2 * batchBytes))
        await new Promise<void>((resolve) => (proceed = resolve))
    }
  }
  listen().catch((error: unknown) =>
    finish(new BrokerError('reconnect', `The socket of consumer ${consumer} broke: ${describeError(error)}`)),
  )

  return {
    ended: end.signal,
    take: async () => {
      while (deliveries.length === 0 && !end.signal.aborted)
        await new Promise<void>((resolve) => (wake = resolve))
      if (end.signal.aborted) return null
      const length = batchLength(deliveries, ({ incoming }) => bytesOf(incoming), { batchSize, batchBytes })
      const taken = deliveries.slice(0, length)
      deliveries = deliveries.slice(length)
      bytes -= taken.reduce((sum, { incoming }) => sum + bytesOf(incoming), 0)
      proceed()
      return taken
    },
    acknowledge: async (taken) => {
      for (const { from, id } of taken) void answer(from, id, 'ok')
      await last
    },
    stop: () => finish(null),
    close: async () => {
      finish(null)
      await last
      // What ZeroMQ was given just before the end, it sometimes drops in spite of its linger; then all of that would come again.
      await sleep(lastWordsMs)
      router.close()
    },
  }
}

const nothing = Buffer.alloc(0)
