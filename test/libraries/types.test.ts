import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { describeWith } from '../support/require.ts'
import { libraries } from '../support/servers/libraries.ts'
import { shared } from '../support/shared.ts'

/** Of each library what is a transaction, and what is none and must not compile. */
const program = `
import { bind, type TransactionInput } from '${resolve('src/index.ts')}'
import type { NodePgDatabase } from 'drizzle-orm/node-postgres'
import type { PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import type postgres from 'postgres'
import type { Prisma, PrismaClient } from './generated/index.js'
import type { Knex } from 'knex'
import type { DataSource, EntityManager, QueryRunner } from 'typeorm'
import type { SqlEntityManager } from '@mikro-orm/postgresql'
import type { Sequelize, Transaction } from 'sequelize'
import type { DatabaseTransactionConnection, DatabasePool } from 'slonik'
import type { PGlite, Transaction as PgliteTransaction } from '@electric-sql/pglite'
import type { Kysely, Transaction as KyselyTransaction } from 'kysely'
import type pg from 'pg'
declare const take: (transaction: TransactionInput) => void
type DrizzleTx = Parameters<Parameters<NodePgDatabase['transaction']>[0]>[0]
type DrizzleJsTx = Parameters<Parameters<PostgresJsDatabase['transaction']>[0]>[0]
declare const good: { a: DrizzleTx; b: DrizzleJsTx; c: postgres.TransactionSql; d: Prisma.TransactionClient; e: Knex.Transaction; f: EntityManager; g: QueryRunner; h: SqlEntityManager; i: Transaction; j: DatabaseTransactionConnection; k: PgliteTransaction; l: KyselyTransaction<{}>; m: pg.PoolClient }
take(good.a); take(good.b); take(good.c); take(good.d); take(good.e); take(good.f); take(good.g); take(good.h); take(good.i); take(good.j); take(good.k); take(good.l); take(good.m)
declare const bad: { a: NodePgDatabase; b: PostgresJsDatabase; c: postgres.Sql; d: PrismaClient; e: Knex; f: DataSource; g: DatabasePool; h: Sequelize; i: Kysely<{}>; j: pg.Pool }
// @ts-expect-error
take(bad.a)
// @ts-expect-error
take(bad.b)
// @ts-expect-error
take(bad.c)
// @ts-expect-error
take(bad.d)
// @ts-expect-error
take(bad.e)
// @ts-expect-error
take(bad.f)
// @ts-expect-error
take(bad.g)
// @ts-expect-error
take(bad.h)
// @ts-expect-error
take(bad.i)
// @ts-expect-error
take(bad.j)
type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const same = <Same extends true>(): Same | void => {}
declare const client: pg.PoolClient
const a = await bind(client, bad.a)
same<Equal<typeof a, DrizzleTx>>()
const b = await bind(client, bad.e)
same<Equal<typeof b, Knex.Transaction>>()
const c = await bind(client, bad.f)
same<Equal<typeof c, EntityManager>>()
const d = await bind(client, bad.h)
same<Equal<typeof d, Transaction>>()
const e = await bind(client, good.h)
same<Equal<typeof e, SqlEntityManager>>()
const f = await bind(client, bad.i)
f satisfies KyselyTransaction<{}>
take(a); take(b); take(c); take(d); take(e); take(f)
`

describeWith('libraries', await shared(libraries), 'types', ({ newest }) => {
  test('what publish takes of each library compiles, and its pools and instances do not', async () => {
    const file = resolve(newest, '../../../types.ts')
    await writeFile(file, program)
    const flags =
      '--ignoreConfig --noEmit --strict --exactOptionalPropertyTypes --skipLibCheck --allowImportingTsExtensions --target es2023 --lib es2024,esnext.disposable --module nodenext'
    const { stdout } = await promisify(execFile)(process.execPath, [
      resolve('node_modules/typescript/bin/tsc'),
      ...flags.split(' '),
      file,
    ]).catch((error: unknown) => error as { stdout: string })
    expect(stdout).toBe('')
  })
})
