import type { Adapter } from '../adapter.ts'

const load = () => import('./rabbitmq.ts')

export const rabbitmq: Adapter = {
  name: 'rabbitmq',
  peer: 'amqplib',
  urlExample: 'amqp://127.0.0.1:5672',
  urlOptional: false,
  trialNeedsUrl: true,
  keepsSubscriptions: true,
  unsubscribed:
    'What no other queue is bound for is unroutable from now on: stop publishing it, or see unroutable.',
  load,
  open: async ({ url, insecure }) => (await load()).rabbitmq({ url: url!, insecure }),
  openTrial: async (place) => (await import('./trial.ts')).openTrial(place),
}
