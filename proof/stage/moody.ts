import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../../src/base/errors.ts'
import type { Broker, SendOutcome } from '../../src/brokers/broker.ts'
import type { OutgoingMessage } from '../../src/message/message.ts'

/** What a broker does that it need not, and may. Shares are from 0 to 1. */
export interface Mood {
  /** Of the messages: refused, and taken when they come again. */
  readonly refuses: number
  /** Of the messages: refused for good. */
  readonly buries: number
  /** Of the batches: delivered once more, the beginning or the end of them. */
  readonly repeats: number
  /** Of the batches: taken, and from some message on the answer is lost. */
  readonly forgets: number
  /** Each batch takes up to so much longer. In milliseconds. */
  readonly delayMs: number
}

/** What it says of a message that it refuses. */
export const refusalText = 'refused on a whim'

/** Within the contract of a broker, whatever it does. */
export interface MoodyBroker extends Broker {
  /** Null: it is what it wraps. */
  mood: Mood | null
}

/** A broker that refuses single messages, delivers twice, is late, and forgets what it has answered, when it is told to. */
export function moody(broker: Broker, chance: () => number = Math.random): MoodyBroker {
  const late = async ({ delayMs }: Mood): Promise<void> => {
    if (delayMs > 0) await sleep(chance() * delayMs)
  }
  const self: MoodyBroker = {
    ...broker,
    mood: null,

    async send(batch, context) {
      const { mood } = self
      if (mood === null) return broker.send(batch, context)
      await late(mood)
      const refused = refuse(batch, mood, chance)
      const taken = batch.filter((message) => !refused.has(message))
      const answers = taken.length === 0 ? [] : await broker.send(taken, context)
      // As a client that has seen no answer: only what was taken may come twice, or its order would be the broker's.
      if (taken.length > 0 && chance() < mood.repeats && answers.every(({ status }) => status === 'sent'))
        await broker.send(taken.slice(at(taken, chance)), context)
      const forgetsFrom = chance() < mood.forgets ? at(taken, chance) : Infinity
      const outcomes = new Map(refused)
      for (const [index, message] of taken.entries())
        outcomes.set(message, index < forgetsFrom ? answers[index]! : forgotten)
      return batch.map((message) => outcomes.get(message)!)
    },

    subscribe: (options, onBatch) =>
      broker.subscribe(options, async (batch) => {
        const { mood } = self
        if (mood !== null) {
          await late(mood)
          if (chance() < mood.repeats) await onBatch(batch.slice(0, 1 + at(batch, chance)))
        }
        return onBatch(batch)
      }),
  }
  return self
}

/** Once a message of a key is refused, so is what follows of its key: what was sent behind it would go before it. */
function refuse(
  batch: readonly OutgoingMessage[],
  { refuses, buries }: Mood,
  chance: () => number,
): Map<OutgoingMessage, SendOutcome> {
  const refused = new Map<OutgoingMessage, SendOutcome>()
  const keys = new Set<string>()
  for (const message of batch) {
    const drawn = chance()
    const follows = message.key !== null && keys.has(message.key)
    if (!follows && drawn >= refuses + buries) continue
    if (message.key !== null) keys.add(message.key)
    refused.set(message, rejected(!follows && drawn < buries ? 'poison' : 'retry'))
  }
  return refused
}

const at = (batch: readonly unknown[], chance: () => number): number => Math.floor(chance() * batch.length)

const rejected = (kind: 'retry' | 'poison'): SendOutcome => ({
  status: 'rejected',
  error: new BrokerError(kind, refusalText),
})

const forgotten: SendOutcome = {
  status: 'unknown',
  error: new BrokerError('unknown', 'The answer is lost.'),
}
