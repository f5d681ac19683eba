import type { Broker } from '../broker.ts'
import { probeKafka } from './clients.ts'
import { checkOptions, type KafkaOptions } from './options.ts'
import { createSender } from './sender.ts'
import { createSubscriber } from './subscriber.ts'
import { probing } from '../probe.ts'

export type { KafkaOptions } from './options.ts'
export { classify } from './errors.ts'

/**
 * Kafka 3.9 and 4.1 are tested, through kafkajs 2.2.4 (`npm install kafkajs`), and through @platformatic/kafka 2.12.1
 * (`client: 'platformatic'`, `npm install @platformatic/kafka`). What is promised is the same.
 *
 * A message is a record in the Kafka topic of its name, a CloudEvent in Kafka's binary mode. Its key is the record's
 * key, and chooses the partition by Kafka's own rule.
 *
 * `sent` means that all replicas in sync have the record: how many these are is the topic's `min.insync.replicas`.
 * Messages of one key arrive in the order in which they were sent, with these limits. A message that Kafka refuses
 * by itself (too large) may be overtaken by later ones of its batch. The order of a key is lost where partitions are
 * added to its topic. A message may be written several times, with the same id, when the outcome was in doubt or
 * when another message of its batch was refused.
 *
 * A consumer that subscribes for the first time starts with the oldest records that its topics still have. All
 * receivers of a consumer have to subscribe to the same topics: the partitions of a topic that only some know may go
 * to one that does not know it, and rest until it is gone. A receiver whose process dies without a word keeps its
 * partitions for `sessionTimeoutMs`. Retention is Kafka's: what it deletes before it was received is lost.
 *
 * What a client library cannot digest does not reach it: headers above 1,024 or 64 KiB, a batch that unpacks to more than 8
 * times the byte budget, damaged records are refused alone, each with its offset, and become dead letters. A batch in
 * snappy, lz4 or zstd needs a codec; its partition waits for one, and `onTrouble` tells what to install. A partition that is added to a topic is read within 5 s.
 *
 * With kafkajs, an open connection costs a few percent of a core even when idle, and on Node 24 a warning: version 2.2.4 looks for
 * waiting requests a thousand times a second (tulios/kafkajs#1704, #1751).
 *
 * Nothing is connected before the first `probe`, `send` or `subscribe`, and lost connections come back by themselves.
 * @throws OptionError
 */
export function kafka(options: KafkaOptions): Broker {
  const settings = checkOptions(options)
  const sender = createSender(settings)
  const subscriber = createSubscriber(settings)
  return {
    name: 'kafka',
    source: settings.source,
    send: sender.send,
    subscribe: subscriber.subscribe,
    probe: probing(() => probeKafka(settings)),
    close: async () => {
      await Promise.all([sender.close(), subscriber.close()])
    },
  }
}
