import { identifier } from './parameter.ts'
import { perSchema, planned } from './statement.ts'

export interface ForeignObject {
  /** `schema`, `table`, `function`, … as Postgres calls it. */
  readonly kind: string
  readonly name: string
  readonly owner: string
}

/**
 * Who owns the schema and what stands in it. An owner can change at any time what an object does with the rights of
 * whoever uses it.
 */
export const ownershipSql = perSchema('ownership', (s) => {
  const bare = s.slice(1, -1)
  // Of a role: itself and those that it can act as; superusers and the database's owner, who need no trick to do harm. Not by
  // pg_has_role, for which a superuser is a member of every role. Admin of a role is whoever has made it, and that is not trust.
  const trusted = (role: string): string => `with recursive member(oid) as (
      select r.oid from pg_roles as r where r.rolname = ${role}
      union
      select m.roleid from pg_auth_members as m join member on member.oid = m.member
      where coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
        or coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true)
    ),
    trusted as (
      select r.oid from pg_roles as r
      where r.rolsuper or r.rolname = 'pg_database_owner' or r.oid in (select member.oid from member)
        or r.oid = (select d.datdba from pg_database as d where d.datname = current_database())
    )`
  // Every object of a schema depends on it, whatever kind it is of. That of a superuser's making need not be written down.
  const foreign = (role: string): string => `${trusted(role)},
    place as (select n.oid from pg_namespace as n where n.nspname = '${bare}'),
    object as (
      select 'pg_namespace'::regclass::oid as classid, place.oid as objid from place
      union
      select d.classid, d.objid from pg_depend as d join place on d.refobjid = place.oid
      where d.refclassid = 'pg_namespace'::regclass
    )
    select named.type as kind, named.identity as name, r.rolname::text as owner
    from object
    join pg_shdepend as d on d.classid = object.classid and d.objid = object.objid and d.deptype = 'o'
      and d.refclassid = 'pg_authid'::regclass
      and d.dbid = (select b.oid from pg_database as b where b.datname = current_database())
    join pg_roles as r on r.oid = d.refobjid
    cross join lateral pg_identify_object(object.classid, object.objid, 0) as named
    where r.oid not in (select trusted.oid from trusted) and named.identity is not null
    order by named.type <> 'schema', named.type, named.identity`

  return {
    /** To whoever asks. */
    foreign: foreign('current_user'),
    /** To a role. */
    foreignTo: planned({ role: identifier }, foreign('$role')).gives<ForeignObject>(),
    owner: planned(
      {},
      `select r.rolname::text as owner from pg_class as c join pg_roles as r on r.oid = c.relowner
      where c.oid = '${s}.migration'::regclass`,
    ).gives<{ readonly owner: string }>(),
    // Who else may put something into the schema. '' is everybody.
    creators: planned(
      { role: identifier },
      `${trusted('$role')}
      select distinct coalesce(r.rolname::text, '') as name
      from pg_namespace as n
      cross join lateral aclexplode(n.nspacl) as acl
      left join pg_roles as r on r.oid = acl.grantee
      where n.nspname = '${bare}' and acl.privilege_type = 'CREATE' and acl.grantee not in (select trusted.oid from trusted)
      order by 1`,
    ).gives<{ readonly name: string }>(),
  }
})
