import { identifier, texts } from './parameter.ts'
import { perSchema, planned } from './statement.ts'

export interface MissingRow {
  readonly table: string
  readonly privilege: string
  readonly column: string
}

/** What roles may do of what they should. */
export const rightsSql = perSchema('rights', (s) => {
  const bare = s.replaceAll('"', '')
  return {
    // Of those privileges that are asked about, the ones that `$role` has not got. A column is '' for the
    // table as a whole; `execute` is of all functions of that name. All of them if it may not even use the schema.
    missing: planned(
      { role: identifier, tables: texts, privileges: texts, columns: texts },
      `select a.relation as "table", a.privilege, a.attribute as column
      from unnest($tables, $privileges, $columns) with ordinality as a(relation, privilege, attribute, nr)
      cross join lateral (select to_regclass('${s}.' || quote_ident(a.relation)) as oid) as t
      where not has_schema_privilege($role, '${bare}', 'usage') or not case
        when a.privilege = 'execute' then coalesce((
          select bool_and(has_function_privilege($role, p.oid, 'execute')) from pg_proc as p
          where p.pronamespace = to_regnamespace('${bare}') and p.proname = a.relation), false)
        when t.oid is null then false
        when a.attribute = '' then has_table_privilege($role, t.oid, a.privilege)
        else has_column_privilege($role, t.oid, a.attribute, a.privilege) end
      order by a.nr`,
    ).gives<MissingRow>(),

    me: planned({}, 'select current_user::text as me').gives<{ readonly me: string }>(),

    // What everybody may do here, which nobody should.
    public: planned(
      {},
      `select c.relname::text as name from pg_class as c
        cross join lateral aclexplode(c.relacl) as acl
        where c.relnamespace = to_regnamespace('${bare}') and acl.grantee = 0
      union
      select p.proname::text from pg_proc as p
        cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl
        where p.pronamespace = to_regnamespace('${bare}') and acl.grantee = 0
      union
      select n.nspname::text from pg_namespace as n
        cross join lateral aclexplode(n.nspacl) as acl
        where n.oid = to_regnamespace('${bare}') and acl.grantee = 0
      order by 1`,
    ).gives<{ readonly name: string }>(),
  }
})
