import type { Adapter } from '../adapter.ts'

const load = () => import('./kafka.ts')

export const kafka: Adapter = {
  name: 'kafka',
  peer: 'kafkajs',
  urlExample: '127.0.0.1:9092,127.0.0.1:9093',
  urlOptional: false,
  keepsSubscriptions: false,
  unsubscribed:
    'In Kafka nothing had to be changed: a receiver reads what it names. The offsets of its group stay.',
  load,
  open: async ({ url }) => (await load()).kafka({ brokers: brokersOf(url!) }),
  openTrial: async (place) => (await import('./trial.ts')).openTrial(place, brokersOf(place.url!)),
}

/** Of `host:port`, several with commas between. */
const brokersOf = (url: string): string[] =>
  url.split(',').map((broker) => broker.trim().replace(/^kafka:\/\//, ''))
