import { setTimeout as sleep } from 'node:timers/promises'
import type { Broker, IncomingMessage, OnBatch, SendOutcome } from '../../src/brokers/broker.ts'
import { fromWireHeaders } from '../../src/brokers/cloudevent.ts'
import type { BrokerError } from '../../src/base/errors.ts'
import type { OutgoingMessage } from '../../src/message/message.ts'

export { outgoing } from '../support/messages.ts'

/** Messages to send, and an eye on what arrives. */

/** Consumers get a name of their own for every topic list, so that no test meets what another one left. */
export function subscribe(
  broker: Broker,
  consumer: string,
  topics: readonly string[],
  onBatch: OnBatch,
  batchSize = 500,
  onTrouble?: (error: BrokerError) => void,
): ReturnType<Broker['subscribe']> {
  const unique = `${consumer}-${topics[0]!.replaceAll(/[^A-Za-z0-9._-]/g, '_')}`
  return broker.subscribe({ consumer: unique, topics, batchSize, onTrouble }, onBatch)
}

export function idOf(message: IncomingMessage): string {
  const id = fromWireHeaders(message)?.attributes.get('id')
  if (id === undefined) throw new Error(`At ${message.position} stands none of ours: ${message.refused}`)
  return id
}

export const statuses = (outcomes: readonly SendOutcome[]): string[] => outcomes.map(({ status }) => status)

export const errorOf = (outcome: SendOutcome): BrokerError | null =>
  'error' in outcome ? outcome.error : null

/** As a relay does: what is not sent is sent again, after a pause. */
export async function sendAll(broker: Broker, batch: readonly OutgoingMessage[]): Promise<void> {
  const { signal } = new AbortController()
  for (let left = batch; left.length > 0;) {
    const outcomes = await broker.send(left, { signal })
    left = left.filter((_, index) => outcomes[index]!.status !== 'sent')
    if (left.length > 0) await sleep(20)
  }
}

export interface Collector {
  readonly onBatch: OnBatch
  /** What was resolved for, in order. */
  readonly received: readonly IncomingMessage[]
  ids(): string[]
  /** The first copies: a broker that is not sure whether it has written a message writes it again. */
  firsts(): IncomingMessage[]
  firstIds(): string[]
  byId(id: string): IncomingMessage
  /** Resolves when so many messages were received, however often each. */
  untilIds(count: number): Promise<void>
  /** Resolves as soon as the condition holds for what was received; it is looked at after every batch. */
  until(condition: (received: readonly IncomingMessage[]) => boolean): Promise<void>
}

/**
 * An `onBatch` that keeps what it gets. If `handle` rejects, so does it, and keeps nothing. Of a place in a log the first
 * copy is kept: when a group rebalances, and it does so whenever it likes, what was not committed yet comes once more.
 */
export function collector(handle: OnBatch = async () => {}): Collector {
  const received: IncomingMessage[] = []
  const places = new Set<string>()
  const watchers = new Set<() => void>()
  const firsts = (): Map<string, IncomingMessage> => {
    const found = new Map<string, IncomingMessage>()
    for (const message of received) {
      const id = idOf(message)
      if (!found.has(id)) found.set(id, message)
    }
    return found
  }
  const until: Collector['until'] = (condition) =>
    new Promise((resolve) => {
      const watcher = (): void => {
        if (!condition(received)) return
        watchers.delete(watcher)
        resolve()
      }
      watchers.add(watcher)
      watcher()
    })
  return {
    received,
    onBatch: async (batch) => {
      await handle(batch)
      received.push(...batch.filter(({ position }) => position === null || !places.has(position)))
      for (const { position } of batch) if (position !== null) places.add(position)
      for (const watcher of watchers) watcher()
    },
    firsts: () => [...firsts().values()],
    firstIds: () => [...firsts().keys()],
    ids: () => received.map(idOf),
    untilIds: (count) => until(() => received.length >= count && firsts().size >= count),
    byId: (id) => received.find((message) => idOf(message) === id)!,
    until,
  }
}
