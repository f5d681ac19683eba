import { randomBytes } from 'node:crypto'
import type { Database } from '../database/database.ts'
import { limited } from '../database/limited.ts'
import { migrationSql } from '../database/sql/migration.ts'
import { migrationFiles } from '../database/migrate.ts'
import { doctorSql, type CatalogItem } from '../database/sql/doctor.ts'
import { begin, rollback, setting } from '../database/sql/server.ts'
import { sqlstate } from '../database/sqlstate.ts'
import { note, orFine, wrong, type Finding } from './finding.ts'

const check = 'schema'

/**
 * Compares the tables with what the migrations make on this very server: they are run into a schema that is rolled
 * back. A snapshot that ships with the package would not know how each version of Postgres words things.
 */
export async function findDrift(database: Database, limitMs: number | null): Promise<readonly Finding[]> {
  const { catalog } = doctorSql(database.schema)
  const twin = `doctor_${randomBytes(6).toString('hex')}`
  const client = await database.connect()
  let expected: CatalogItem[]
  try {
    await client.query(begin)
    if (limitMs !== null) await client.query(setting({ statement_timeout: `${limitMs}` }, 'commit'))
    await client.query(migrationSql(database.schema).searchPath)
    for (const { sql } of migrationFiles(twin)) await client.query(sql)
    expected = await database.run(client, catalog, { schema: twin })
  } catch (error) {
    if (sqlstate(error) !== '42501') throw error
    return [
      note(
        check,
        'It was not compared with the migrations: this user may not create a schema, which is rolled back at once.',
        'Run doctor once as the owner of the tables after each migration.',
      ),
    ]
  } finally {
    await client.query(rollback)
    client.release()
  }
  const asker = limitMs === null ? database : limited(database, limitMs)
  const found = await asker.query(catalog, { schema: database.schema })
  return orFine(
    compare(expected, found),
    check,
    'Tables, indexes, functions and settings are as the migrations make them.',
  )
}

function compare(expected: readonly CatalogItem[], found: readonly CatalogItem[]): Finding[] {
  const id = ({ kind, name }: CatalogItem): string => `${kind} ${name}`
  const theirs = new Map(found.map((item) => [id(item), item.definition]))
  const ours = new Set(expected.map(id))
  const changed = expected.flatMap((item): Finding[] => {
    const definition = theirs.get(id(item))
    if (definition === item.definition) return []
    if (definition === undefined) {
      return [
        wrong(
          check,
          `The ${id(item)} is missing.`,
          `It should be: ${short(item.definition)}. Put it back by hand.`,
        ),
      ]
    }
    const is = `The ${id(item)} is not as the migrations make it: ${short(definition)}.`
    const should = `It should be: ${short(item.definition)}.`
    return [item.kind.startsWith('storage') ? note(check, is, should) : wrong(check, is, should)]
  })
  const added = found
    .filter((item) => !ours.has(id(item)))
    .map((item) => {
      const slow =
        item.kind === 'index'
          ? ' Each index of yours is written with every message, and ends HOT updates.'
          : ''
      return note(
        check,
        `The ${id(item)} is not of Twinbox.`,
        `Remove it unless you know why it is there.${slow}`,
      )
    })
  return [...changed, ...added]
}

const short = (text: string): string => {
  const line = text.replaceAll(/\s+/g, ' ')
  return line.length > 160 ? `${line.slice(0, 159)}…` : line
}
