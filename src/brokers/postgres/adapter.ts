import type { Adapter } from '../adapter.ts'

const load = () => import('./postgres.ts')

export const postgres: Adapter = {
  name: 'postgres',
  peer: null,
  urlExample: 'postgres://127.0.0.1/app',
  // The inboxes are then where the outbox is.
  urlOptional: true,
  // They stand in our own table.
  keepsSubscriptions: false,
  unsubscribed: null,
  load,
  open: async ({ url, database, schema }) => (await load()).postgres({ database: url ?? database(), schema }),
  openTrial: async ({ database, schema }) => {
    const { postgres: create } = await load()
    return {
      open: () => create({ database: database(), schema }),
      receiving: { topics: ['#'] },
      nowhere: 'nowhere',
      locate: async () => [],
      clear: async () => {},
    }
  },
}
