import { BrokerError } from '../../base/errors.ts'
import { withDeadline, within } from '../../base/waiting.ts'
import { takes, type OutgoingMessage } from '../../message/message.ts'
import type { Broker, SendOutcome } from '../broker.ts'
import type { Consumers } from './addresses.ts'
import { Channel, withoutAnswer } from './channel.ts'
import { Directory } from './directory.ts'
import { toFrames, type Frames } from './frames.ts'
import { Holders } from './holders.ts'
import type { Settings } from './options.ts'
import { toEntry, type Entry } from './window.ts'

export interface Sender {
  readonly send: Broker['send']
  close(): Promise<void>
}

/** A message, and what each of its consumers says of it. */
interface Sending {
  readonly message: OutgoingMessage
  /** What is settled without asking anybody; else null. */
  outcome: SendOutcome | null
  readonly answers: Map<string, SendOutcome | null>
}

/** A channel for each consumer, made when there is something for it. */
export function createSender(settings: Settings): Sender {
  const channels = new Map<string, Channel>()
  const directory = new Directory(settings)
  const holders = new Holders()
  let closed = false

  const reasons = {
    late: () =>
      new BrokerError(
        'reconnect',
        `Not all consumers have acknowledged within ${settings.sendTimeoutMs} ms (sendTimeoutMs).`,
      ),
    aborted: (cause: unknown) => new BrokerError('retry', 'The sender gave up waiting.', { cause }),
  }

  function channelOf(name: string, consumers: Consumers): Channel {
    let channel = channels.get(name)
    if (channel === undefined) channels.set(name, (channel = new Channel(settings, name, consumers[name]!)))
    return channel
  }

  /** Of those that are no longer among the consumers, nothing is kept. */
  function update(consumers: Consumers): void {
    for (const [name, channel] of channels) {
      const consumer = consumers[name]
      if (consumer !== undefined) channel.update(consumer)
      else {
        channels.delete(name)
        void channel.close()
      }
    }
  }

  /** Who is to get each message. */
  async function address(
    batch: readonly OutgoingMessage[],
  ): Promise<{ consumers: Consumers; of: string[][] }> {
    const takers = (consumers: Consumers): string[][] =>
      batch.map(({ topic }) => Object.keys(consumers).filter((name) => takes(consumers[name]!.topics, topic)))
    let consumers = await directory.get()
    let of = takers(consumers)
    // Before a message counts as one that nobody takes, it is asked who there is by now.
    if (settings.moving && of.some((names) => names.length === 0)) {
      consumers = await directory.ask()
      of = takers(consumers)
    }
    update(consumers)
    return { consumers, of }
  }

  /** Resolves when each message has its answers, or the signal aborts. Never rejects. */
  async function deliver(sendings: readonly Sending[], signal: AbortSignal): Promise<void> {
    let fallback: BrokerError
    const entries = new Map<string, { entry: Entry; sending: Sending }[]>()
    let open = 0
    let done = (): void => {}
    const all = new Promise<void>((resolve) => (done = resolve))
    try {
      const { consumers, of } = await within(signal, address(sendings.map(({ message }) => message)))
      for (const [index, sending] of sendings.entries()) {
        const { message } = sending
        const missing = of[index]!.filter((name) => !holders.has(message.id, name))
        if (of[index]!.length === 0) sending.outcome = unroutable(message.topic, settings)
        else sending.outcome = tooLarge(message, settings)
        if (sending.outcome !== null) continue
        if (missing.length === 0) sending.outcome = { status: 'sent' }
        const frames: Frames = toFrames(message, settings.source)
        for (const name of missing) {
          sending.answers.set(name, null)
          open++
          const entry = toEntry(frames, (answer) => {
            sending.answers.set(name, answer)
            if (answer.status === 'sent') holders.add(message.id, name)
            if (--open === 0) done()
          })
          const list = entries.get(name) ?? []
          entries.set(name, list)
          list.push({ entry, sending })
        }
      }
      for (const [name, list] of entries) channelOf(name, consumers).offer(list.map(({ entry }) => entry))
      if (open > 0) await within(signal, all)
      return
    } catch (error) {
      fallback = error instanceof BrokerError ? error : reasons.aborted(error)
    }
    for (const [name, list] of entries) {
      const left = list.filter(({ sending }) => sending.answers.get(name) === null)
      if (left.length === 0) continue
      channels.get(name)?.withdraw(new Set(left.map(({ entry }) => entry)))
      for (const { entry, sending } of left) sending.answers.set(name, withoutAnswer(entry, fallback))
    }
    for (const sending of sendings)
      if (sending.answers.size === 0) sending.outcome ??= { status: 'failed', error: fallback }
  }

  async function send(
    batch: readonly OutgoingMessage[],
    { signal }: { readonly signal: AbortSignal },
  ): Promise<SendOutcome[]> {
    if (closed) return batch.map(() => ({ status: 'failed', error: closedError() }))
    const sendings = batch.map((message): Sending => ({ message, outcome: null, answers: new Map() }))
    await withDeadline(signal, settings.sendTimeoutMs, reasons, (deadline) => deliver(sendings, deadline))
    return sendings.map((sending) => {
      const outcome = sending.outcome ?? hold(sending, worst([...sending.answers.values()]))
      if (outcome.status === 'sent' || outcome.status === 'rejected') holders.forget(sending.message.id)
      return outcome
    })
  }

  /** While others answer, what is for somebody who is away waits apart: it would be in the way of what is for them. */
  function hold({ answers }: Sending, outcome: SendOutcome): SendOutcome {
    if (outcome.status !== 'failed') return outcome
    if (![...channels.values()].some(({ isUp }) => isUp)) return outcome
    const away = [...answers].filter(([, answer]) => answer?.status === 'failed')
    const times = away.map(([name]) => channels.get(name)?.awayMs ?? null)
    if (times.length === 0 || times.some((awayMs) => awayMs === null)) return outcome
    return { ...outcome, status: 'held', retryInMs: holdMs(Math.max(...(times as number[]))) }
  }

  async function close(): Promise<void> {
    if (closed) return
    closed = true
    await Promise.all([...channels.values()].map((channel) => channel.close()))
  }

  return { send, close }
}

/** The longer somebody has been away, the longer it may be until somebody is back: half as long again, within bounds, and not all at once. */
const holdMs = (awayMs: number): number =>
  Math.min(holdMsMax, Math.max(holdMsMin, awayMs / 2)) * (0.75 + Math.random() / 2)
const holdMsMin = 500
const holdMsMax = 60_000

/** A message is sent when it is with all of its consumers. Of several that have it not, what is the message's own fault comes first. */
function worst(answers: readonly (SendOutcome | null)[]): SendOutcome {
  for (const status of ['rejected', 'unknown', 'failed'] as const) {
    const found = answers.find((answer) => answer?.status === status)
    if (found !== undefined && found !== null) return found
  }
  return { status: 'sent' }
}

function unroutable(topic: string, { unroutable: policy }: Settings): SendOutcome {
  if (policy === 'drop') return { status: 'sent' }
  return rejected(
    'config',
    `No consumer takes the topic "${topic}". Name it among the topics of one (consumers), or set unroutable: 'drop'.`,
  )
}

function tooLarge({ content }: OutgoingMessage, { maxMessageBytes }: Settings): SendOutcome | null {
  const bytes = Buffer.byteLength(content)
  if (bytes <= maxMessageBytes) return null
  return rejected(
    'poison',
    `The message has ${bytes} bytes, but the limit is ${maxMessageBytes} (maxMessageBytes).`,
  )
}

const rejected = (kind: 'config' | 'poison', text: string): SendOutcome => ({
  status: 'rejected',
  error: new BrokerError(kind, text),
})

const closedError = (): BrokerError => new BrokerError('config', 'This ZeroMQ broker has been closed.')
