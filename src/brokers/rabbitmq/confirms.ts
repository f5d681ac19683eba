import type { ConfirmChannel } from 'amqplib'
import { BrokerError } from '../../base/errors.ts'
import { swallowHandlerErrors, type Link } from './connection.ts'
import { connectionLost, toBrokerError } from './errors.ts'
import type { Settings } from './options.ts'
import { failed, rejected, type Sending } from './outgoing.ts'
import { ensureExchange } from './topology.ts'
import { onAbort } from '../../base/waiting.ts'

/** A channel on which the server confirms every message, with a bound on what waits for its confirmation. */
export interface Confirms {
  /** Resolves when the channel is closed. Never rejects. */
  readonly lost: Promise<void>
  /** Why the server closed the channel; null if it did not, or not by itself. */
  fault(): unknown
  /**
   * Publishes in the given order and waits for the answers, which end up in `outcome`.
   * Returns null when all have one, else why it went no further. Never rejects.
   */
  publish(sendings: readonly Sending[], signal: AbortSignal): Promise<BrokerError | null>
  close(): Promise<void>
}

/** @throws BrokerError */
export async function openConfirms(link: Link, settings: Settings): Promise<Confirms> {
  let channel: ConfirmChannel
  try {
    channel = await link.model.createConfirmChannel()
  } catch (error) {
    throw toBrokerError('Could not open a channel to publish on', error)
  }
  const confirms = watch(link, channel, settings)
  await ensureExchange(channel, settings)
  return confirms
}

function watch(link: Link, channel: ConfirmChannel, settings: Settings): Confirms {
  const { exchange, maxUnconfirmed, maxUnconfirmedBytes } = settings
  const returned = new Map<string, number>()
  const waiters = new Set<() => void>()
  let open = true
  let draining = false
  let unconfirmed = 0
  let unconfirmedBytes = 0
  let fault: unknown = null

  const wake = (): void => {
    for (const waiter of waiters) waiter()
    waiters.clear()
  }
  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise<void>((resolve) => waiters.add(resolve))
  }

  const lost = new Promise<void>((resolve) => {
    // First in line: amqplib's own listener fails the confirmations, and those must not be taken for nacks.
    channel.prependListener('close', () => {
      open = false
      resolve()
    })
  })
  const stopListening = link.onBlockedChange(wake)
  channel.on('close', () => {
    stopListening()
    wake()
  })
  channel.on('error', (error) => {
    fault = error
  })
  // A return always comes before the confirmation of its message. They are counted: after a timeout the same message
  // may be in flight twice, and both returns come before one confirmation of both.
  channel.on('return', ({ properties }) => {
    const id = String(properties.messageId)
    returned.set(id, (returned.get(id) ?? 0) + 1)
  })
  channel.on('drain', () => {
    draining = false
    wake()
  })
  swallowHandlerErrors(channel)

  const hasRoomFor = (bytes: number): boolean =>
    !draining &&
    unconfirmed < maxUnconfirmed &&
    (unconfirmed === 0 || unconfirmedBytes + bytes <= maxUnconfirmedBytes)

  const takeReturn = (id: string): boolean => {
    const count = returned.get(id) ?? 0
    if (count > 1) returned.set(id, count - 1)
    else returned.delete(id)
    return count > 0
  }

  const answer = (sending: Sending, nack: unknown, onAnswer: () => void): void => {
    unconfirmed--
    unconfirmedBytes -= sending.body.length
    if (!open) return
    if (nack) sending.outcome = failed(queueFull(sending.routingKey, nack))
    else if (takeReturn(sending.properties.messageId)) sending.outcome = rejected(noQueue(sending, exchange))
    else sending.outcome = { status: 'sent' }
    onAnswer()
    wake()
  }

  const write = (sending: Sending, onAnswer: () => void): void => {
    const { routingKey, body, properties } = sending
    const more = channel.publish(exchange, routingKey, body, properties, (nack: unknown) =>
      answer(sending, nack, onAnswer),
    )
    // `false` means that amqplib has buffered the message all the same, and would do so without an end.
    draining = !more
    sending.written = true
    unconfirmed++
    unconfirmedBytes += body.length
  }

  const whyNot = (signal: AbortSignal): BrokerError | null => {
    if (!open) return channelLost(fault, link.failure())
    if (signal.aborted) return toBrokerError('Sending was given up', signal.reason)
    const alarm = link.blockedBy()
    return alarm === null ? null : serverBlocked(alarm)
  }

  const publish = async (sendings: readonly Sending[], signal: AbortSignal): Promise<BrokerError | null> => {
    const stopWaking = onAbort(signal, wake)
    let waiting = 0
    let stopped: BrokerError | null = null
    try {
      for (const sending of sendings) {
        await until(() => whyNot(signal) !== null || hasRoomFor(sending.body.length))
        stopped = whyNot(signal)
        if (stopped !== null) break
        try {
          write(sending, () => waiting--)
          waiting++
        } catch (error) {
          // amqplib throws before it has written anything.
          if (isClosed(error)) return toBrokerError('The channel was closed', error, 'reconnect')
          sending.outcome = rejected(toBrokerError('The message cannot be sent to RabbitMQ', error, 'poison'))
        }
      }
      // A blocked server confirms what it had read before; so this waits for the deadline, not for the alarm's end.
      await until(() => waiting === 0 || !open || signal.aborted)
      return stopped ?? (waiting === 0 ? null : whyNot(signal))
    } finally {
      stopWaking()
    }
  }

  const close = async (): Promise<void> => {
    if (open) await Promise.race([channel.close().catch(() => {}), lost])
  }

  return { lost, fault: () => fault, publish, close }
}

const isClosed = (error: unknown): boolean => error instanceof Error && error.name === 'IllegalOperationError'

const queueFull = (routingKey: string, cause: unknown): BrokerError =>
  new BrokerError(
    'retry',
    `RabbitMQ did not take the message with routing key "${routingKey}": a queue for it is full ` +
      '(x-overflow reject-publish) or out of order.',
    { cause },
  )

const noQueue = (sending: Sending, exchange: string): BrokerError =>
  new BrokerError(
    'config',
    `No queue takes messages with routing key "${sending.routingKey}" from exchange "${exchange}". Start a receiver ` +
      "for this topic, bind a queue to the exchange, or set unroutable to 'drop'.",
  )

const serverBlocked = (alarm: string): BrokerError =>
  new BrokerError('retry', `RabbitMQ takes no messages at present, because of an alarm: ${alarm}.`)

const channelLost = (fault: unknown, failure: Error | null): BrokerError =>
  fault === null
    ? connectionLost('while sending', failure)
    : toBrokerError('RabbitMQ closed the channel while sending', fault)
