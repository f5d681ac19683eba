import type { Adapter } from '../adapter.ts'
import { readUrl } from './url.ts'

const load = () => import('./kafka.ts')

export const kafka: Adapter = {
  name: 'kafka',
  peer: 'kafkajs',
  otherPeers: [{ peer: '@platformatic/kafka', query: 'client=platformatic' }],
  urlExample: '127.0.0.1:9092,127.0.0.1:9093',
  urlOptional: false,
  trialNeedsUrl: true,
  keepsSubscriptions: false,
  unsubscribed:
    'In Kafka nothing had to be changed: a receiver reads what it names. The offsets of its group stay.',
  load,
  open: async ({ url }) => (await load()).kafka(readUrl(url!)),
  openTrial: async (place) => (await import('./trial.ts')).openTrial(place, readUrl(place.url!)),
}
