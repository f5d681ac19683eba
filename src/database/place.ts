import { isPool } from './client.ts'
import { Database, type DatabaseInput } from './database.ts'
import { hostsOfPool, readHosts } from './hosts.ts'

/**
 * Where a database is, for people: `"app" on db1:5432, db2:5432 as app_owner`. Without a password, and without whatever
 * else stands in its URL. Connects nowhere. @throws OptionError
 */
export function placeOf(input: DatabaseInput): string {
  if (input instanceof Database) return placeOf(input.pool)
  const { config, addresses } = isPool(input) ? hostsOfPool(input) : readHosts(input, 1)
  const { database, user, host = 'localhost', port = 5432 } = config
  const all = addresses.length > 1 ? addresses : [{ host, port }]
  const hosts = all.map((address) => `${address.host}:${address.port}`).join(', ')
  return `${JSON.stringify(database ?? user ?? '')} on ${hosts}${user === undefined ? '' : ` as ${user}`}`
}
