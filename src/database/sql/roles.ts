import {
  functions,
  grants,
  hiddenFromReaders,
  markOf,
  messageTables,
  narrowedRoles,
  numbers,
  roleNames,
  roleOf,
  type Grant,
  type RoleName,
} from './grants.ts'
import { isNarrowedHere, isNarrowing, narrowing, ofConsumers } from './narrowing.ts'
import { texts } from './parameter.ts'
import { perSchema, planned } from './statement.ts'

export interface MembersRow {
  readonly found: boolean
  /** Whether it has the mark of those that we made. */
  readonly ours: boolean
  readonly login: boolean
  readonly applied: boolean
  readonly members: readonly string[]
}

/** A role of ours that there is for one consumer. */
export interface ConsumerRoleRow {
  readonly role: RoleName
  readonly consumer: string
}

export const rolesSql = perSchema('roles', (s) => {
  const role = (name: RoleName): string => `"${roleOf(s, name)}"`
  const all = roleNames.map(role).join(', ')
  const bare = s.replaceAll('"', '')
  const grant = ({ table, privileges, columns }: Grant, to: RoleName): string => {
    const of = columns === undefined ? '' : ` (${columns.join(', ')})`
    return `grant ${privileges.map((privilege) => privilege + of).join(', ')} on ${s}.${table} to ${role(to)};`
  }
  const forRole = (name: RoleName): string =>
    [
      `-- ${name}`,
      ...grants[name].map((each) => grant(each, name)),
      ...(['relay', 'receiver', 'claimer'].includes(name)
        ? [`grant usage on sequence ${s}.worker_id_seq to ${role(name)};`]
        : []),
      ...(name in numbers ? [`grant select on sequence ${s}.${numbers[name]} to ${role(name)};`] : []),
      ...(functions[name] ?? []).map(
        (called) => `grant execute on function ${s}.${called} to ${role(name)};`,
      ),
    ].join('\n')

  return {
    // May be run again after each migration: it takes everything back before it gives. Needs the owner of the tables, and
    // CREATEROLE. One statement, so that a role of somebody else stops it before anything has changed, in psql as well.
    // `consumers`: those of which there is to be a role of their own.
    script: (consumers: readonly string[] = []): string => {
      const theirs = consumers.flatMap((consumer) => narrowedRoles.map((each) => [each, consumer] as const))
      const wanted = [...roleNames.map((each) => [each, null] as const), ...theirs]
      return `do $$
declare
  name text;
  mark text;
  found record;
  columns text;
  kind text;
  consumer text;
  statement text;
begin
  for name, mark in values ${wanted
    .map(([each, consumer]) => `('${roleOf(s, each, consumer)}', '${markOf(s, each, consumer)}')`)
    .join(',\n    ')} loop
    begin
      execute format('create role %I nologin', name);
      execute format('comment on role %I is %L', name, mark);
    exception
      -- Roles belong to all databases of a server, so another one may have made them.
      when duplicate_object or unique_violation then null;
    end;
    select r.rolcanlogin as login, shobj_description(r.oid, 'pg_authid') is not distinct from mark as ours,
      exists (select from pg_auth_members as m where m.roleid = r.oid) as members,
      exists (select from pg_shdepend as d where d.refobjid = r.oid
        and d.refclassid = 'pg_authid'::regclass and d.deptype = 'o') as owns
    into found from pg_roles as r where r.rolname = name;
    if found.ours is not true then
      raise exception 'The role % was not made by Twinbox (%), and gets no rights: nothing was changed.', name, concat_ws(', ',
          'it has no comment that says so', case when found.login then 'it can log in' end,
          case when found.members then 'it has members' end, case when found.owns then 'it owns something' end)
        using errcode = 'duplicate_object', hint = format('Rename or drop it. If an earlier Twinbox made it and its members '
          'are those that you want: comment on role %I is %L', name, mark);
    end if;
  end loop;

  revoke all on schema ${s} from public, ${all};
  revoke all on all tables in schema ${s} from public, ${all};
  revoke all on all sequences in schema ${s} from public, ${all};
  revoke all on all functions in schema ${s} from public, ${all};
  grant usage on schema ${s} to ${all};

${roleNames
  .map(forRole)
  .join('\n\n')
  .replaceAll(/^(?=.)/gm, '  ')}

  foreach name in array array[${messageTables.map((each) => `'${each}'`).join(', ')}] loop
    select string_agg(format('%I', attname), ', ' order by attnum) into columns
    from pg_attribute
    where attrelid = format('%I.%I', '${bare}', name)::regclass and attnum > 0 and not attisdropped
      and attname <> all (array[${hiddenFromReaders.map((each) => `'${each}'`).join(', ')}]);
    execute format('grant select (%s) on %I.%I to %I', columns, '${bare}', name, '${roleOf(s, 'reader')}');
  end loop;
${narrowing(
  bare,
  theirs.map((each) => roleOf(s, ...each)),
)}end
$$;
`
    },

    // The roles of single consumers.
    consumers: planned(
      {},
      `select m.role, m.consumer ${ofConsumers(bare)} where ${isNarrowedHere(bare)} order by 2, 1`,
    ).gives<ConsumerRoleRow>(),

    // Such roles whom tables show the rows of all consumers.
    unnarrowed: planned(
      {},
      `select r.rolname::text as name, m.consumer, array_agg(c.relname::text order by c.relname) as tables
      ${ofConsumers(bare)}
      join pg_class as c on c.relnamespace = to_regnamespace('${bare}') and c.relkind in ('r', 'p')
      join pg_attribute as a on a.attrelid = c.oid and a.attname = 'consumer' and not a.attisdropped
      where has_schema_privilege(r.oid, c.relnamespace, 'usage')
        and has_any_column_privilege(r.oid, c.oid, 'select, insert, update')
        and not (c.relrowsecurity and exists (
          select from pg_policy as p where p.polrelid = c.oid and p.polname = r.rolname and ${isNarrowing}))
      group by 1, 2 order by 1`,
    ).gives<{ readonly name: string; readonly consumer: string; readonly tables: readonly string[] }>(),

    // Who is a member, by itself or through others; and whether the role has been let in here. Roles belong to all
    // databases of a server, so that it is there says nothing.
    members: planned(
      { names: texts, marks: texts },
      `select asked.name as role, r.oid is not null as found, coalesce(r.rolcanlogin, false) as login,
        shobj_description(r.oid, 'pg_authid') is not distinct from asked.mark as ours,
        coalesce(has_schema_privilege(r.oid, to_regnamespace('${bare}'), 'usage'), false) as applied,
        coalesce(array_agg(m.rolname::text order by m.rolname)
          filter (where m.rolname is not null), '{}') as members
      from unnest($names, $marks) with ordinality as asked(name, mark, nr)
      left join pg_roles as r on r.rolname = asked.name
      left join pg_auth_members as a on a.roleid = r.oid
      left join pg_roles as m on m.oid = a.member
      group by asked.name, asked.mark, asked.nr, r.oid, r.rolcanlogin order by asked.nr`,
    ).gives<MembersRow>(),
  }
})
