import type { Broker } from '../broker.ts'
import { probing } from '../probe.ts'
import { openLink } from './connection.ts'
import { checkOptions, type RabbitmqOptions } from './options.ts'
import { createPublisher } from './publisher.ts'
import { createSubscriber } from './subscriber.ts'

export type { RabbitmqOptions } from './options.ts'
export { classify } from './errors.ts'

/**
 * RabbitMQ 3.10 or later, through amqplib 2 from 2.3.1 on (`npm install amqplib`).
 *
 * All messages go to one durable topic exchange; each consumer has one durable queue, bound for its topics. A message
 * is a CloudEvent in AMQP binary mode.
 *
 * `sent` means that every queue bound for the message has stored it, and that there was one at least. Messages of
 * one key arrive in the order in which they were sent, with these limits. A message that the server refuses by
 * itself (queue full, too large) may be overtaken by later ones of its batch. All receivers of a consumer need the
 * same `prefetch`: RabbitMQ puts what a lost receiver held behind what a smaller one did not take yet. A receiver
 * whose connection dies without a word keeps its turn until the server misses its heartbeats, two to three times
 * `heartbeatSeconds`.
 *
 * Nothing is connected before the first `probe`, `send` or `subscribe`, and lost connections come back by themselves.
 * @throws OptionError
 */
export function rabbitmq(options: RabbitmqOptions): Broker {
  const settings = checkOptions(options)
  const publisher = createPublisher(settings)
  const subscriber = createSubscriber(settings)
  return {
    name: 'rabbitmq',
    source: settings.source,
    send: publisher.send,
    subscribe: subscriber.subscribe,
    unsubscribe: subscriber.unsubscribe,
    probe: probing(async (signal) => (await openLink(settings, 'probe', signal)).close()),
    close: async () => {
      await Promise.all([publisher.close(), subscriber.close()])
    },
  }
}
