import { pathToFileURL } from 'node:url'
import type pg from 'pg'
import { migrationFiles, rolesScript } from '../../src/index.ts'

/** Imports a package of the version that is tested. What comes has no types: those would be of one version only. */
// oxlint-disable-next-line typescript/no-explicit-any
export type Load = (name: string) => Promise<any>
// oxlint-disable-next-line typescript/no-explicit-any
type Any = any

/** What an installed set loads with, see `servers/libraries.ts`. */
export const loadFrom =
  (loader: string): Load =>
  async (name) =>
    ((await import(/* @vite-ignore */ pathToFileURL(loader).href)) as { load: Load }).load(name)

/** A data library, connected to a database that has the tables and a table `things (name text)`. */
export interface Opened {
  /** Runs work in a transaction, which ends as the work does. */
  transaction(work: (tx: Any) => Promise<void>): Promise<void>
  /** The same inside of one, on a savepoint. */
  nested(tx: Any, work: (tx: Any) => Promise<void>): Promise<void>
  /** Runs a statement in a transaction, as the library does. */
  run(tx: Any, text: string): Promise<unknown>
  /** What is in no transaction, by what it is called. */
  readonly outside: Readonly<Record<string, Any>>
  /** Of a library that can be bound to the client of a claim. */
  readonly bound?: Bindable
  /** Of a library that is the server itself: runs a statement as its owner. */
  readonly query?: (text: string) => Promise<Record<string, unknown>[]>
  close(): Promise<unknown>
}

/** What is done with a library that is bound, as its users do it. */
export interface Bindable {
  /** What `bind` is given. */
  readonly instance: Any
  /** Writes a row of `things`, as the library writes its rows. */
  insert(tx: Any, name: string): PromiseLike<unknown>
  /** How its users end a transaction; none of it may. */
  readonly ending: Readonly<Record<string, (tx: Any) => unknown>>
  /** What cannot be bound, by what it is called. */
  readonly unbound?: Readonly<Record<string, Any>>
}

export interface Library {
  readonly name: string
  /** The package whose version counts. */
  readonly package: string
  /** The Node that its newest version needs. */
  readonly node?: number
  /** It can be bound to the client of a claim: what it opens has `bound`. */
  readonly binds?: true
  /** Its transaction does not tell that it has ended, and goes on with the connection. */
  readonly forgets?: true
  readonly open: (load: Load, url: string) => Promise<Opened>
}

/** On a savepoint of one's own, where the library has none. */
const bySavepoint =
  (run: Opened['run']): Opened['nested'] =>
  async (tx, work) => {
    await run(tx, 'savepoint nested')
    try {
      await work(tx)
    } catch (error) {
      await run(tx, 'rollback to savepoint nested')
      throw error
    }
  }

const openPool = async (load: Load, url: string): Promise<pg.Pool> =>
  new (await load('pg')).default.Pool({ connectionString: url, max: 4 })

export const libraries: readonly Library[] = [
  {
    name: 'pg',
    package: 'pg',
    open: async (load, url) => {
      const pool = await openPool(load, url)
      const run: Opened['run'] = (client, text) => client.query(text)
      const idle = await pool.connect()
      return {
        run,
        nested: bySavepoint(run),
        outside: { pool, 'a client before BEGIN': idle },
        async transaction(work) {
          const client = await pool.connect()
          try {
            await client.query('begin')
            await work(client)
            await client.query('commit')
          } catch (error) {
            await client.query('rollback')
            throw error
          } finally {
            client.release()
          }
        },
        async close() {
          idle.release()
          await pool.end()
        },
      }
    },
  },
  {
    name: 'Kysely',
    binds: true,
    package: 'kysely',
    forgets: true,
    node: 22,
    open: async (load, url) => {
      const { Kysely, PostgresDialect, CompiledQuery } = await load('kysely')
      const db = new Kysely({ dialect: new PostgresDialect({ pool: await openPool(load, url) }) })
      const run: Opened['run'] = (trx, text) => trx.executeQuery(CompiledQuery.raw(text))
      return {
        run,
        nested: bySavepoint(run),
        outside: { db },
        bound: {
          instance: db,
          insert: (trx, name) => trx.insertInto('things').values({ name }).execute(),
          ending: {
            commit: (trx) => trx.commit().execute(),
            rollback: (trx) => trx.rollback().execute(),
          },
        },
        transaction: (work) => db.transaction().execute(work),
        close: () => db.destroy(),
      }
    },
  },
  {
    name: 'Drizzle over node-postgres',
    binds: true,
    package: 'drizzle-orm',
    open: async (load, url) => {
      const { drizzle } = await load('drizzle-orm/node-postgres')
      const { drizzle: drizzleJs } = await load('drizzle-orm/postgres-js')
      const { sql } = await load('drizzle-orm')
      const { pgTable, text: textColumn } = await load('drizzle-orm/pg-core')
      const rows = pgTable('things', { name: textColumn() })
      const pool = await openPool(load, url)
      const db = drizzle(pool, { schema: { rows } })
      return {
        run: (tx, text) => tx.execute(sql.raw(text)),
        nested: (tx, work) => tx.transaction(work),
        outside: { db },
        bound: {
          instance: db,
          insert: (tx, name) => tx.insert(rows).values({ name }),
          ending: { 'a transaction of its session': (tx) => tx.session.transaction(async () => {}) },
          unbound: { 'over postgres.js': drizzleJs((await load('postgres')).default(url)) },
        },
        transaction: (work) => db.transaction(work),
        close: () => pool.end(),
      }
    },
  },
  {
    name: 'Drizzle over postgres.js',
    package: 'drizzle-orm',
    open: async (load, url) => {
      const { drizzle } = await load('drizzle-orm/postgres-js')
      const { sql } = await load('drizzle-orm')
      const client = (await load('postgres')).default(url, { max: 4 })
      const db = drizzle(client)
      return {
        run: (tx, text) => tx.execute(sql.raw(text)),
        nested: (tx, work) => tx.transaction(work),
        outside: { db },
        transaction: (work) => db.transaction(work),
        close: () => client.end(),
      }
    },
  },
  {
    name: 'postgres.js',
    package: 'postgres',
    open: async (load, url) => {
      const sql = (await load('postgres')).default(url, { max: 4 })
      return {
        run: (tx, text) => tx.unsafe(text),
        nested: (tx, work) => tx.savepoint(work),
        outside: { sql },
        transaction: (work) => sql.begin(work),
        close: () => sql.end(),
      }
    },
  },
  {
    name: 'Prisma',
    package: '@prisma/client',
    open: async (load, url) => {
      const { PrismaClient } = (await load('../../generated/index.js')).default
      const { PrismaPg } = await load('@prisma/adapter-pg')
      const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: url }) })
      const extended = prisma.$extends({ model: { $allModels: { nothing: () => null } } })
      const run: Opened['run'] = (tx, text) => tx.$executeRawUnsafe(text)
      let times = 0
      return {
        run,
        nested: bySavepoint(run),
        outside: { prisma, 'an extended client': extended },
        // With and without an extension in turn.
        transaction: (work) => (times++ % 2 === 0 ? prisma : extended).$transaction(work),
        close: () => prisma.$disconnect(),
      }
    },
  },
  {
    name: 'Knex',
    binds: true,
    package: 'knex',
    open: async (load, url) => {
      const knex = (await load('knex')).default({ client: 'pg', connection: url })
      return {
        run: (trx, text) => trx.raw(text),
        nested: (trx, work) => trx.transaction(work),
        outside: { knex },
        bound: {
          instance: knex,
          insert: (trx, name) => trx('things').insert({ name }),
          ending: { commit: (trx) => trx.commit(), rollback: (trx) => trx.rollback() },
        },
        transaction: (work) => knex.transaction(work),
        close: () => knex.destroy(),
      }
    },
  },
  {
    name: 'Objection',
    binds: true,
    package: 'objection',
    open: async (load, url) => {
      const knex = (await load('knex')).default({ client: 'pg', connection: url })
      const { Model } = (await load('objection')).default
      class Thing extends Model {
        static tableName = 'things'
        static idColumn = 'name'
      }
      Thing.knex(knex)
      return {
        run: (trx, text) => Thing.query(trx).then(() => trx.raw(text)),
        nested: (trx, work) => Thing.transaction(trx, work),
        outside: { 'the knex of a model': Thing.knex() },
        bound: {
          instance: Thing.knex(),
          insert: (trx, name) => Thing.query(trx).insert({ name }),
          ending: { commit: (trx) => trx.commit(), rollback: (trx) => trx.rollback() },
        },
        transaction: (work) => Thing.transaction(work),
        close: () => knex.destroy(),
      }
    },
  },
  ...(['an EntityManager', 'a QueryRunner'] as const).map((what): Library => ({
    name: `TypeORM, ${what}`,
    ...(what === 'an EntityManager' && { binds: true as const }),
    package: 'typeorm',
    open: async (load, url) => {
      await load('reflect-metadata')
      const { DataSource, EntitySchema } = (await load('typeorm')).default
      const things = new EntitySchema({
        name: 'things',
        columns: { name: { type: 'text', primary: true } },
      })
      const source = await new DataSource({ type: 'postgres', url, entities: [things] }).initialize()
      const idle = source.createQueryRunner()
      const run: Opened['run'] = (em, text) => em.query(text)
      return {
        run,
        nested:
          what === 'a QueryRunner'
            ? bySavepoint(run)
            : (em, work) => em.transaction((inner: Any) => work(inner)),
        outside: {
          source,
          manager: source.manager,
          'a QueryRunner before startTransaction': idle,
          'a manager of its own': idle.manager,
        },
        ...(what === 'an EntityManager' && {
          bound: {
            instance: source,
            // It opens a transaction of its own for this.
            insert: (em: Any, name: string) => em.save(things, { name }),
            ending: {
              commit: (em: Any) => em.queryRunner.commitTransaction(),
              rollback: (em: Any) => em.queryRunner.rollbackTransaction(),
            },
          },
        }),
        async transaction(work) {
          if (what === 'an EntityManager') {
            await source.transaction(work)
            return
          }
          const runner = source.createQueryRunner()
          try {
            await runner.startTransaction()
            await work(runner)
            await runner.commitTransaction()
          } catch (error) {
            await runner.rollbackTransaction()
            throw error
          } finally {
            await runner.release()
          }
        },
        close: () => source.destroy(),
      }
    },
  })),
  {
    name: 'MikroORM',
    binds: true,
    package: '@mikro-orm/core',
    node: 22,
    open: async (load, url) => {
      const { MikroORM, EntitySchema } = await load('@mikro-orm/postgresql')
      const name = { type: 'string', primary: true }
      const things = new EntitySchema({ name: 'Thing', tableName: 'things', properties: { name } })
      const orm = await MikroORM.init({
        clientUrl: url,
        dbName: new URL(url).pathname.slice(1),
        entities: [things],
        logger: () => {},
      })
      return {
        run: (em, text) => em.getConnection().execute(text, [], 'run', em.getTransactionContext()),
        nested: (em, work) => em.transactional(work),
        outside: { em: orm.em, 'a fork': orm.em.fork() },
        bound: {
          instance: orm.em,
          insert: async (em, given) => {
            em.persist(em.create('Thing', { name: given }))
            await em.flush()
          },
          ending: {
            commit: (em) => em.commit(),
            rollback: (em) => em.rollback(),
            begin: (em) => em.begin(),
          },
        },
        transaction: (work) => orm.em.fork().transactional(work),
        close: () => orm.close(true),
      }
    },
  },
  {
    name: 'Sequelize',
    binds: true,
    package: 'sequelize',
    open: async (load, url) => {
      const { Sequelize, DataTypes } = (await load('sequelize')).default
      const sequelize = new Sequelize(url, { dialect: 'postgres', logging: false })
      const name = { type: DataTypes.TEXT, primaryKey: true }
      const Thing = sequelize.define('Thing', { name }, { tableName: 'things', timestamps: false })
      return {
        run: (transaction, text) => sequelize.query(text, { transaction }),
        nested: (transaction, work) => sequelize.transaction({ transaction }, work),
        outside: { sequelize },
        bound: {
          instance: sequelize,
          insert: (transaction, given) => Thing.create({ name: given }, { transaction }),
          ending: {
            commit: (transaction) => transaction.commit(),
            rollback: (transaction) => transaction.rollback(),
          },
        },
        transaction: (work) => sequelize.transaction(work),
        close: () => sequelize.close(),
      }
    },
  },
  {
    name: 'Slonik',
    package: 'slonik',
    node: 24,
    open: async (load, url) => {
      const { createPool } = await load('slonik')
      const { z } = await load('zod')
      const pool = await createPool(url)
      let idle: Any
      let letGo = (): void => {}
      await new Promise<void>((given) => {
        void pool.connect((connection: Any) => {
          idle = connection
          given()
          return new Promise<void>((resolve) => (letGo = resolve))
        })
      })
      return {
        run: (t, sql) => t.query({ sql, values: [], type: 'SLONIK_TOKEN_QUERY', parser: z.any() }),
        nested: (t, work) => t.transaction(work),
        outside: { pool, 'a connection': idle },
        transaction: (work) => pool.transaction(work),
        async close() {
          letGo()
          await pool.end()
        },
      }
    },
  },
  {
    name: 'PGlite',
    package: '@electric-sql/pglite',
    open: async (load) => {
      const { PGlite } = await load('@electric-sql/pglite')
      const db = new PGlite()
      for (const { sql } of migrationFiles()) await db.exec(sql)
      await db.exec(rolesScript())
      await db.exec(`create table things (name text); grant all on things to twinbox_publisher;
        grant twinbox_canceller to twinbox_publisher; grant usage on schema public to twinbox_publisher; set role twinbox_publisher`)
      const run: Opened['run'] = (tx, text) => tx.query(text)
      return {
        run,
        nested: bySavepoint(run),
        outside: { db },
        transaction: (work) => db.transaction(work),
        async query(text) {
          const results = await db.exec(`reset role; ${text}; set role twinbox_publisher`)
          return results.at(-2).rows
        },
        close: () => db.close(),
      }
    },
  },
]
