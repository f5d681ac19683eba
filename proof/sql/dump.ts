import { perSchema } from '../../src/database/sql/statement.ts'

/** A table, quoted, and its columns as a list. */
export interface DumpedTable {
  readonly name: string
  readonly columns: string
}

/** A sequence, quoted, and where it stands. */
export interface DumpedSequence {
  readonly name: string
  readonly at: string
}

/**
 * Dump and restore of a schema by SQL alone, for machines without `pg_dump`: its tables are made anew, by the migrations, and get
 * the rows of one snapshot, and the sequences where they stood.
 */
export const dumpSql = perSchema('dump', (s) => ({
  begin: 'begin isolation level repeatable read read only',

  // What is generated is generated again.
  tables: `select quote_ident(c.relname) as name, string_agg(quote_ident(a.attname), ', ' order by a.attnum) as columns
    from pg_class as c join pg_attribute as a on a.attrelid = c.oid
    where c.relnamespace = '${s}'::regnamespace and c.relkind = 'r'
      and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    group by c.oid, c.relname`,

  // A sequence knows no snapshot. Read after the rows, it stands where they need it, or beyond, as in pg_dump.
  sequences: `select quote_ident(q.relname) as name, q.at::text from (
      select c.relname, pg_sequence_last_value(c.oid) as at from pg_class as c
      where c.relnamespace = '${s}'::regnamespace and c.relkind = 'S' offset 0) as q
    where q.at is not null`,

  // Each row as one text, a portion at a time.
  read: ({ name, columns }: DumpedTable) =>
    `declare portion no scroll cursor for select row(${columns})::text as row from ${s}.${name}`,
  fetch: 'fetch 5000 from portion',
  close: 'close portion',

  // As in a restore, no trigger and no foreign key has a say.
  clear: (tables: readonly DumpedTable[]) =>
    `set session_replication_role = replica; truncate ${tables.map(({ name }) => `${s}.${name}`).join(', ')}`,

  shape: ({ name, columns }: DumpedTable) =>
    `drop table if exists pg_temp.shape; create temporary table shape as select ${columns} from ${s}.${name} limit 0`,
  write: ({ name, columns }: DumpedTable) => `insert into ${s}.${name} (${columns}) overriding system value
    select (r.row).* from (select unnest($1::text[])::pg_temp.shape as row offset 0) as r`,

  set: ({ name, at }: DumpedSequence) => `select setval('${s}.${name}', ${at})`,
}))
