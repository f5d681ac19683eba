import { BrokerError } from '../../base/errors.ts'
import type { OutgoingMessage } from '../../message/message.ts'
import type { Broker, SendOutcome } from '../broker.ts'
import { openConfirms, type Confirms } from './confirms.ts'
import { openLink } from './connection.ts'
import { isAboutPublishing, toBrokerError } from './errors.ts'
import type { Settings } from './options.ts'
import { failed, pending, rejected, toSending, unanswered, type Sending } from './outgoing.ts'
import { withDeadline, within } from '../../base/waiting.ts'
import { reopening } from './reopening.ts'

export interface Publisher {
  readonly send: Broker['send']
  close(): Promise<void>
}

/** One connection and one confirm channel for all that is sent; both come back by themselves with the next batch. */
export function createPublisher(settings: Settings): Publisher {
  const life = new AbortController()
  const link = reopening(() => openLink(settings, 'publisher', life.signal))
  const channel = reopening(async () => openConfirms(await link.get(), settings))

  const reasons = {
    late: () =>
      new BrokerError(
        'reconnect',
        `RabbitMQ did not answer within ${settings.sendTimeoutMs} ms (sendTimeoutMs).`,
      ),
    aborted: (cause: unknown) =>
      new BrokerError('retry', 'The sender gave up waiting for RabbitMQ.', { cause }),
  }

  /** Gives every message an outcome if it can; else returns why it could not. */
  async function deliver(sendings: readonly Sending[], signal: AbortSignal): Promise<BrokerError | null> {
    try {
      const shared = await within(signal, channel.get())
      const stopped = await shared.publish(pending(sendings), signal)
      if (stopped === null || !isAboutPublishing(shared.fault())) return stopped
      return await isolate(pending(sendings), signal)
    } catch (error) {
      return toBrokerError('Could not send to RabbitMQ', error)
    }
  }

  /**
   * The server answers a bad message by closing the channel with everything in flight on it, and does not say which
   * one it was. So they go again on a channel of their own, halved until the bad one is alone. Those that had arrived
   * arrive twice, with the same id.
   */
  async function isolate(doubtful: readonly Sending[], signal: AbortSignal): Promise<BrokerError | null> {
    const own = await within(signal, openOwn(), (late) => late.close())
    const stopped = await own.publish(doubtful, signal)
    const fault = own.fault()
    void own.close()
    const left = pending(doubtful)
    if (!isAboutPublishing(fault) || left.length === 0) return stopped
    if (left.length === 1) {
      left[0]!.outcome = rejected(toBrokerError('RabbitMQ refused the message', fault))
      return null
    }
    const half = left.length >> 1
    const first = await isolate(left.slice(0, half), signal)
    return first ?? (await isolate(left.slice(half), signal))
  }

  async function openOwn(): Promise<Confirms> {
    return openConfirms(await link.get(), settings)
  }

  async function send(
    batch: readonly OutgoingMessage[],
    { signal }: { readonly signal: AbortSignal },
  ): Promise<SendOutcome[]> {
    if (life.signal.aborted) return batch.map(() => failed(closed()))
    const sendings = batch.map((message) => toSending(message, settings))
    const stopped = await withDeadline(signal, settings.sendTimeoutMs, reasons, (deadline) =>
      deliver(sendings, deadline),
    )
    return sendings.map((sending) => sending.outcome ?? unanswered(sending, stopped ?? reasons.late()))
  }

  async function close(): Promise<void> {
    if (life.signal.aborted) return
    // Only an attempt that is under way already is waited for; none is begun.
    const connected = link.current()
    life.abort(closed())
    await connected?.then((opened) => opened.close()).catch(() => {})
  }

  return { send, close }
}

const closed = (): BrokerError => new BrokerError('config', 'This RabbitMQ broker has been closed.')
