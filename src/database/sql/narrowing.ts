import { markOf, narrowedRoles } from './grants.ts'

/** The comment of a policy of ours that shows a role the rows of one consumer only begins so; the consumer follows. */
export const narrowedTo = 'twinbox consumer '
/** The policy that lets everybody through whom no other one narrows. */
const everybody = 'twinbox_everybody'

/** Whether the policy `p` is one of ours that narrows. Only a table's owner comments on its policies. */
export const isNarrowing = `starts_with(coalesce(obj_description(p.oid, 'pg_policy'), ''), '${narrowedTo}')`

/** Whether the policy `p` is one of ours. */
export const isOurs = `(p.polname = '${everybody}' or ${isNarrowing})`

/** The roles `r` that carry the mark of one consumer. */
export const ofConsumers = (schema: string): string => `from pg_roles as r join lateral (
        select k.role, substr(d.mark, length(k.mark) + 1) as consumer
        from shobj_description(r.oid, 'pg_authid') as d(mark)
        join (values ${narrowedRoles.map((each) => `('${each}', '${markOf(schema, each, '')}')`).join(', ')}) as k(role, mark)
          on starts_with(d.mark, k.mark)
      ) as m on true`

/**
 * Whether the role `r` has a policy here. That there is such a role says little: roles belong to all databases of a server, and in
 * another one nobody has asked for policies.
 */
export const isNarrowedHere = (schema: string): string => `exists (
      select from pg_policy as p join pg_class as c on c.oid = p.polrelid
      where c.relnamespace = to_regnamespace('${schema}') and p.polname = r.rolname)`

/**
 * The part of the script of roles for those of one consumer, inside of its block: of the consumers that are `given`, and those that
 * are narrowed here already, so that they follow each migration as well. Such a role gets what its kind has (`receiver`, `claimer`), and policies show it the rows of its consumer.
 *
 * It is no member of its kind's role: by SET ROLE it would be that one, whom no policy narrows. The policies are restrictive and name
 * it, so that nobody else sees less than before: for them the table has one that lets all through. Where somebody has policies of
 * their own, that one would open what they close: such a table is refused. Locks a table only if a policy is missing there.
 */
export const narrowing = (schema: string, given: readonly string[]): string => `
  for name, kind, consumer in
    select r.rolname, m.role, m.consumer
    ${ofConsumers(schema)}
    where r.rolname = any (array[${given.map((name) => `'${name}'`).join(', ')}]::text[]) or ${isNarrowedHere(schema)}
    order by 1
  loop
    execute format('revoke all on schema %I from %I', '${schema}', name);
    execute format('revoke all on all tables in schema %I from %I', '${schema}', name);
    execute format('revoke all on all sequences in schema %I from %I', '${schema}', name);
    execute format('revoke all on all functions in schema %I from %I', '${schema}', name);
    for statement in
      select format('grant %s on %s to %I', acl.privilege_type || given.columns, given.object, name)
      from (
        select n.nspacl, '', format('schema %I', n.nspname) from pg_namespace as n where n.nspname = '${schema}'
        union all
        select c.relacl, '', format('%s %I.%I', case c.relkind when 'S' then 'sequence' else 'table' end, '${schema}', c.relname)
        from pg_class as c where c.relnamespace = '${schema}'::regnamespace
        union all
        select a.attacl, format(' (%I)', a.attname), format('%I.%I', '${schema}', c.relname)
        from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0
        where c.relnamespace = '${schema}'::regnamespace
        union all
        select p.proacl, '', format('function %s', p.oid::regprocedure) from pg_proc as p where p.pronamespace = '${schema}'::regnamespace
      ) as given(acl, columns, object)
      cross join lateral aclexplode(given.acl) as acl
      join pg_roles as r on r.oid = acl.grantee and r.rolname = '${schema}_' || kind
    loop
      execute statement;
    end loop;
    for found in
      select c.relname as "table", c.relrowsecurity as secured,
        exists (select from pg_policy as p where p.polrelid = c.oid and p.polname = '${everybody}') as opened,
        exists (select from pg_policy as p where p.polrelid = c.oid and p.polname = name) as narrowed,
        exists (select from pg_policy as p where p.polrelid = c.oid and not ${isOurs}) as foreign
      from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attname = 'consumer' and not a.attisdropped
      where c.relnamespace = '${schema}'::regnamespace and c.relkind in ('r', 'p') order by 1
    loop
      if found.foreign or found.secured and not found.opened then
        raise exception 'The table %.% has row-level security that Twinbox has not made, so no role can be narrowed to a consumer: nothing was changed.',
          '${schema}', found.table using errcode = 'duplicate_object', hint = 'Drop its policies and switch it off, or drop the roles of consumers.';
      end if;
      if not found.opened then
        execute format('create policy ${everybody} on %I.%I using (true) with check (true)', '${schema}', found.table);
      end if;
      if not found.narrowed then
        execute format('create policy %I on %I.%I as restrictive to %I using (consumer = %L) with check (consumer = %L)',
          name, '${schema}', found.table, name, consumer, consumer);
        execute format('comment on policy %I on %I.%I is %L', name, '${schema}', found.table, '${narrowedTo}' || consumer);
      end if;
      if not found.secured then
        execute format('alter table %I.%I enable row level security', '${schema}', found.table);
      end if;
    end loop;
  end loop;
`
