import type { Adapter } from '../adapter.ts'
import { readUrl } from './addresses.ts'

const load = () => import('./zeromq.ts')

export const zeromq: Adapter = {
  name: 'zeromq',
  peer: 'zeromq',
  urlExample: 'tcp://127.0.0.1:7301/billing?topic=order.*,tcp://127.0.0.1:7302/billing',
  urlOptional: false,
  // A trial listens on this machine.
  trialNeedsUrl: false,
  keepsSubscriptions: false,
  unsubscribed:
    "With ZeroMQ the relays' configuration says who takes what: take the topic from the consumer there as well.",
  load,
  open: async ({ url, insecure }) => (await load()).zeromq({ consumers: readUrl(url!), insecure }),
  openTrial: async (place) => (await import('./trial.ts')).openTrial(place),
}
