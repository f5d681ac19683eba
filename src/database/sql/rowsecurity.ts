import { isNarrowing, isOurs, narrowedTo } from './narrowing.ts'
import { identifier, texts } from './parameter.ts'
import { perSchema, planned, type Statement } from './statement.ts'

/** A table of which row-level security hides rows. */
export interface HiddenRow {
  readonly name: string
  /** Whether by policies that are not ours. */
  readonly foreign: boolean
  /** The consumers to which policies of ours narrow the role. */
  readonly consumers: readonly string[]
}

/**
 * Tables of which row-level security hides rows. Whoever works without these rows takes them for not there: a lane is
 * free for nobody, a message never came.
 */
export const rowSecuritySql = perSchema('rowSecurity', (s) => {
  const bare = s.slice(1, -1)
  const secured = `from pg_class as c
    where c.relnamespace = to_regnamespace('${bare}') and c.relkind in ('r', 'p') and c.relrowsecurity`

  const holds = (
    role: string,
  ): string => `case when ${role} = current_user then row_security_active(c.oid) else exists (
        select from pg_roles as r where r.rolname = ${role} and not r.rolsuper and not r.rolbypassrls
          and (c.relforcerowsecurity or not pg_has_role(r.oid, c.relowner, 'usage'))) end`
  const isFor = (role: string): string => `exists (
              select from unnest(p.polroles) as u(id) where u.id = 0 or pg_has_role(${role}, u.id, 'usage'))`

  // Policies that let everything through are somebody's decision, and no harm. Of each command that the role may do.
  const hiddenFrom = (role: string): string => `select * from (
      select c.relname::text as name, exists (
        select from (values ('select', 'r'), ('insert', 'a'), ('update', 'w'), ('delete', 'd')) as may(privilege, command)
        cross join lateral (
          select coalesce(bool_or(p.passes) filter (where p.polpermissive), false)
            and coalesce(bool_and(p.passes) filter (where not p.polpermissive), true) as passes
          from (
            select p.polpermissive, ${isNarrowing} or
              (may.command = 'a' or pg_get_expr(p.polqual, c.oid) is not distinct from 'true')
              and (may.command in ('r', 'd')
                or coalesce(pg_get_expr(p.polwithcheck, c.oid), pg_get_expr(p.polqual, c.oid)) is not distinct from 'true')
                as passes
            from pg_policy as p
            where p.polrelid = c.oid and p.polcmd in ('*', may.command::"char") and ${isFor(role)}
          ) as p
        ) as policies
        where not policies.passes and case when may.privilege = 'delete'
          then has_table_privilege(${role}, c.oid, 'delete')
          else has_any_column_privilege(${role}, c.oid, may.privilege) end
      ) as "foreign", array(
        select substr(obj_description(p.oid, 'pg_policy'), ${narrowedTo.length + 1}) from pg_policy as p
        where p.polrelid = c.oid and ${isNarrowing} and ${isFor(role)} order by 1
      ) as consumers
      ${secured} and ${holds(role)}
    ) as found where "foreign" or consumers <> '{}' order by 1`

  return {
    /** From whoever asks. */
    hidden: hiddenFrom('current_user'),
    /** From a role. */
    hiddenFrom: planned({ role: identifier }, hiddenFrom('$role')).gives<HiddenRow>() satisfies Statement,
    secured: planned(
      {},
      `select c.relname::text as name, exists (select from pg_policy as p where p.polrelid = c.oid)
        and not exists (select from pg_policy as p where p.polrelid = c.oid and not ${isOurs}) as ours ${secured} order by 1`,
    ).gives<{ readonly name: string; readonly ours: boolean }>() satisfies Statement,
    // Those who may log in as one of these roles.
    logins: planned(
      { roles: texts },
      `select r.rolname::text as name from pg_roles as r
        where r.rolcanlogin and not r.rolsuper and exists (
          select from pg_roles as g where g.rolname = any ($roles) and pg_has_role(r.oid, g.oid, 'usage'))
        order by 1 limit 100`,
    ).gives<{ readonly name: string }>() satisfies Statement,
  }
})
