import type { Adapter } from '../adapter.ts'

const load = () => import('./postgres.ts')

export const postgres: Adapter = {
  name: 'postgres',
  peer: null,
  urlExample: 'postgres://127.0.0.1/app',
  // The inboxes are then where the outbox is.
  urlOptional: true,
  trialNeedsUrl: false,
  // They stand in our own table.
  keepsSubscriptions: false,
  unsubscribed: null,
  load,
  open: async ({ url, database, schema, insecure = false }) => {
    const { postgres: create } = await load()
    // To where the tables are, workers connect in the same way already.
    if (url === undefined) return create({ database: database(), schema, insecure: true })
    return create({ database: url, schema, insecure })
  },
  openTrial: async ({ database, schema }) => {
    const { postgres: create } = await load()
    return {
      open: () => create({ database: database(), schema, insecure: true }),
      receiving: { topics: ['#'] },
      nowhere: 'nowhere',
      locate: async () => [],
      clear: async () => {},
    }
  },
}
