import type { Broker, IncomingMessage, OnBatch } from '../../src/brokers/broker.ts'

export interface Told {
  readonly broker: Broker
  /** Hands deliveries to whoever has subscribed last. */
  readonly deliver: OnBatch
  /** Who has subscribed last, for when others have since. */
  readonly last: () => OnBatch
}

/** A broker that delivers what a test hands it. What real brokers deliver is in `brokers/`. */
export function toldBroker(source?: string): Told {
  let handOver: OnBatch
  const broker: Broker = {
    name: 'told',
    ...(source !== undefined && { source }),
    send: async () => [],
    async subscribe(_, onBatch) {
      handOver = onBatch
      return { stop: async () => {} }
    },
    close: async () => {},
  }
  return { broker, deliver: (batch) => handOver(batch), last: () => handOver }
}

/** A delivery as a test wants it. */
export const incoming = (fields: Partial<IncomingMessage> = {}): IncomingMessage => ({
  ...{ topic: 'order.placed', key: null, headers: {}, contentType: 'application/json' },
  ...{ body: Buffer.from('{"n":1}'), position: null, redelivered: false },
  ...fields,
})
