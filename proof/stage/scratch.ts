import { randomBytes } from 'node:crypto'
import { Database } from '../../src/database/database.ts'
import { placeOf } from '../../src/database/place.ts'
import { migrate } from '../../src/database/migrate.ts'
import type { Address } from '../../src/brokers/adapter.ts'
import { BrokerError } from '../../src/base/errors.ts'
import { embeddedLibrary, findLibrary } from './postgres.ts'
import { UsageError } from '../../src/terminal/failure.ts'
import { reachable, readInsecure } from '../../src/terminal/brokers.ts'
import { openCoordination, zookeeperOf } from '../../src/terminal/coordination.ts'
import { trialOf, type Run } from './broker.ts'

/** What a command that works on tables of its own is told about where. */
export interface Place {
  readonly broker: string
  readonly url?: string
  readonly insecure?: boolean
  readonly database?: string
  readonly zookeeper?: string
}

/**
 * Where the tables go: a server of the user's, or (`database` is undefined) an embedded one. Nothing has been started
 * yet. @throws UsageError
 */
export function chooseServer<P extends Place>(what: 'demo' | 'soak', place: P): P {
  if (place.database !== undefined || findLibrary() !== null) return place
  // Whoever exports DATABASE_URL means an application's database: it can bear a demo, which is small and goes by itself, but
  // who shall bear minutes of load and faults has to be named.
  const ambient = process.env['TWINBOX_DATABASE_URL'] || process.env['DATABASE_URL'] || undefined
  if (what === 'demo' && ambient !== undefined) return { ...place, database: ambient }
  throw new UsageError(
    `The ${what} needs a Postgres. Name one with --database postgres://…${what === 'demo' ? ' or DATABASE_URL' : ''}: the ${what} works in ` +
      `a schema of its own there, and drops it in the end. Or let "npm install --no-save ${embeddedLibrary}" get one.`,
  )
}

/** Where the broker is, by flag or environment. @throws UsageError */
export function brokerUrlOf({ broker, url }: Place): string | null {
  const brokerUrl = url ?? process.env['TWINBOX_BROKER_URL']
  reachable(broker, brokerUrl, true)
  return brokerUrl ?? null
}

/**
 * Makes a schema with Twinbox's tables and others, and finds out where the broker listens. What there is to
 * undo goes to `cleanUp` as soon as it has been done.
 */
export async function openScratch(options: {
  readonly what: 'demo' | 'soak'
  readonly place: Place
  /** Where to make the schema: a server of the user's, or one that ends with the run. */
  readonly databaseUrl: string
  readonly sql: (schema: string) => { readonly create: string; readonly drop: string }
  readonly say: (text: string) => void
  readonly cleanUp: (() => Promise<unknown>)[]
}): Promise<{ run: Run; database: Database; addresses: readonly Address[] }> {
  const { what, place, databaseUrl, sql, say, cleanUp } = options
  const { broker } = place
  const name = `twinbox_${what}_${randomBytes(4).toString('hex')}`
  const brokerUrl = brokerUrlOf(place)
  const insecure = readInsecure(place.insecure)
  // Said here once, and not by each of the processes.
  openCoordination(place)
  const zookeeper = zookeeperOf(place)
  const run: Run = { name, schema: name, databaseUrl, broker, brokerUrl, insecure, zookeeper, consumer: what }
  const database = new Database(databaseUrl, { schema: name, poolSize: 4 })
  cleanUp.push(() => database.close())
  say(`Migrating the schema ${name} in the database ${placeOf(databaseUrl)} …`)
  await migrate(database)
  if (place.database !== undefined) cleanUp.push(() => database.pool.query(sql(name).drop))
  await database.pool.query(sql(name).create)
  const trial = await trialOf(run, database)
  // Both fail at once where workers would go on trying for ever.
  await trial.open().close()
  const addresses = await trial.locate().catch((cause: unknown) => {
    if (cause instanceof BrokerError) throw cause
    throw new BrokerError('reconnect', `The broker ${broker} cannot be reached:`, { cause })
  })
  cleanUp.push(() => trial.clear([run.consumer]))
  return { run, database, addresses }
}
