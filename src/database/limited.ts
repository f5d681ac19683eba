import type { Database } from './database.ts'

/** Who asks something of a database, and changes nothing. */
export type Asker = Pick<Database, 'schema' | 'query'>

/** The same database, of which the server ends each statement after so long; each is a transaction by itself, which reads only. */
export const limited = (database: Database, ms: number): Asker => ({
  schema: database.schema,
  query: (statement, ...given) =>
    database.look({ statement_timeout: `${ms}` }, (client) => database.run(client, statement, ...given)),
})
