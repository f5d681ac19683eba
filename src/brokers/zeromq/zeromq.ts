import type { Broker } from '../broker.ts'
import { BrokerError } from '../../base/errors.ts'
import { probing } from '../probe.ts'
import { loadZeromq } from './library.ts'
import { checkOptions, type ZeromqOptions } from './options.ts'
import { createSender } from './sender.ts'
import { checkReceiving, createSubscriber } from './subscriber.ts'

export type { ZeromqConsumer, Consumers as ZeromqConsumers } from './addresses.ts'
export type { ZeromqCurve } from './curve.ts'
export type { ZeromqOptions } from './options.ts'

/**
 * No broker in between: a relay sends straight to receivers, through libzmq 4.3 of the package zeromq 6 (`npm install zeromq`).
 *
 * A receiver listens, and acknowledges a message once its inbox has it. `sent` means that every consumer whose topics match has
 * acknowledged. Nothing keeps messages between the two: who takes what is configuration of the relay (`consumers`), and what is
 * for a consumer that is away stays in the outbox, be it for others as well. These have their copies already.
 *
 * Messages of one key arrive in the order in which they were sent: to each consumer there is one connection of a relay, and what
 * was not acknowledged goes again, in order, when another takes its place. A message that a receiver refuses by itself may be
 * overtaken by later ones of its batch. A message may arrive several times, with the same id.
 *
 * A consumer may have several receivers, each at an address of its own. One is in use at a time; when it gives no sign of life
 * for three of `heartbeatMs`, when its connection ends, or when it acknowledges nothing for `ackTimeoutMs`, the next one is.
 *
 * Beyond this machine it needs `curve`, or `insecure: true`. Whoever may send there chooses topics and ids: nobody stands in between
 * who would check them.
 *
 * Nothing is connected before the first `send` or `subscribe`, and lost connections come back by themselves.
 * @throws OptionError
 */
export function zeromq(options: ZeromqOptions): Broker {
  const settings = checkOptions(options)
  const sender = createSender(settings)
  const subscriber = createSubscriber(settings)
  return {
    name: 'zeromq',
    source: settings.source,
    send: sender.send,
    subscribe: subscriber.subscribe,
    probe: async (consumer = null) =>
      probing(async () => {
        if (consumer !== null) return checkReceiving(settings, consumer)
        await loadZeromq()
        if (settings.consumers === null)
          throw new BrokerError(
            'config',
            'A relay needs the option consumers of zeromq(): it says who takes what, and where.',
          )
      })(),
    close: async () => {
      await Promise.all([sender.close(), subscriber.close()])
    },
  }
}
