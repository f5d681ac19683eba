import { texts } from './parameter.ts'
import { perSchema, planned } from './statement.ts'

/**
 * Least privilege: what each kind of process needs of the tables, and nothing else. `doctor` compares the catalog with
 * this, and `test/roles.test.ts` runs real workers under it.
 */
export const roleNames = [
  'publisher',
  'canceller',
  'relay',
  'receiver',
  'claimer',
  'operator',
  'reader',
] as const
export type RoleName = (typeof roleNames)[number]

export type Privilege = 'select' | 'insert' | 'update' | 'delete'

export interface Grant {
  readonly table: string
  readonly privileges: readonly Privilege[]
  /** Only these columns. */
  readonly columns?: readonly string[]
}

const on = (table: string, ...privileges: readonly Privilege[]): Grant => ({ table, privileges })
const only = (table: string, privilege: Privilege, ...columns: readonly string[]): Grant => ({
  table,
  privileges: [privilege],
  columns,
})

/** Registering, giving signs of life, declaring others dead, forgetting those who died yesterday. */
const membership = [
  on('worker', 'select', 'insert', 'update', 'delete'),
  on('incarnation', 'select', 'insert'),
  on('migration', 'select'),
]
/** Moving messages between lanes and the tables of those that are not ready. `for update` asks for `update`. */
const waiting = [
  on('lane', 'select', 'update'),
  on('deferred', 'select', 'insert', 'update', 'delete'),
  on('parked', 'select', 'insert', 'update', 'delete'),
  on('parked_message', 'select', 'insert', 'delete'),
  // Dead letters are pruned by whoever is told to, and each leaves a trace.
  on('dead_letter', 'select', 'insert', 'delete'),
  on('audit', 'insert'),
]

/** What a publisher may say of a message. */
const published = ['id', 'topic', 'key', 'headers', 'payload', 'body', 'content_type', 'expires_at']

/** What nobody but the workers of its consumer has to see. */
export const hiddenFromReaders = ['payload', 'body', 'headers'] as const

/** Of which a reader sees everything but what is hidden. */
export const messageTables = [
  'outbox',
  'inbox',
  'deferred',
  'parked',
  'parked_message',
  'unhandled',
  'dead_letter',
  'schedule',
] as const

export const grants: Readonly<Record<RoleName, readonly Grant[]>> = {
  // Neither status, attempts nor the order of what it publishes, and nothing that others have published: whether a dedupe
  // key is taken, a function tells.
  publisher: [
    only('outbox', 'insert', 'lane', ...published),
    only('deferred', 'insert', 'due_at', 'published_at', 'dedupe_key', ...published),
  ],
  // Beside publisher, for `cancel`. It can delete whatever waits for a time, retries of consumers included.
  canceller: [
    only('deferred', 'select', 'consumer', 'attempt', 'id', 'topic', 'dedupe_key'),
    on('deferred', 'delete'),
    only('dedupe', 'select', 'topic', 'dedupe_key', 'id'),
    on('dedupe', 'delete'),
  ],
  relay: [
    ...membership,
    ...waiting,
    on('lane', 'insert'),
    on('outbox', 'select', 'insert', 'update', 'delete'),
    on('dedupe', 'select', 'insert', 'delete'),
    on('schedule', 'select', 'update'),
  ],
  receiver: [
    ...membership,
    on('lane', 'select', 'insert'),
    on('inbox', 'insert'),
    on('seen', 'select', 'insert', 'delete'),
    on('subscription', 'select', 'insert', 'update'),
    on('dead_letter', 'insert'),
  ],
  claimer: [
    ...membership,
    ...waiting,
    on('lane', 'insert'),
    on('inbox', 'select', 'insert', 'update', 'delete'),
    on('handled', 'select', 'insert', 'delete'),
    on('unhandled', 'select', 'insert', 'update', 'delete'),
    on('circuit', 'select', 'insert', 'update', 'delete'),
  ],
  operator: [
    on('migration', 'select'),
    ...[
      ...messageTables,
      'lane',
      'circuit',
      'worker',
      'subscription',
      'dedupe',
      'seen',
      'audit',
      'handled',
    ].map((table) => on(table, 'select', 'insert', 'update', 'delete')),
  ],
  // The columns of messages are found when the grants are given, so that none of a later version is forgotten.
  reader: ['migration', 'lane', 'worker', 'subscription', 'audit', 'handled', 'circuit'].map((table) =>
    on(table, 'select'),
  ),
}

export interface MembersRow {
  readonly found: boolean
  readonly applied: boolean
  readonly members: readonly string[]
}

/** Of which a worker has to see whether it has gone back. */
const numbers: Partial<Record<RoleName, string>> = { relay: 'outbox_seq_seq', claimer: 'inbox_seq_seq' }
const functions: Partial<Record<RoleName, readonly string[]>> = {
  publisher: ['publish', 'take_dedupe_keys', 'new_id', 'lane_of', 'plain_headers', 'sound_headers'],
  relay: ['lane_of', 'plain_headers', 'sound_headers', 'incarnation', 'mend_sequences'],
  receiver: ['lane_of', 'incarnation', 'mend_sequences'],
  claimer: ['lane_of', 'plain_headers', 'sound_headers', 'complete', 'incarnation', 'mend_sequences'],
  operator: ['lane_of', 'plain_headers', 'sound_headers'],
}

export const roleOf = (schema: string, role: RoleName): string => `${schema.replaceAll('"', '')}_${role}`

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
    // May be run again after each migration: it begins by taking everything back. Needs the owner of the tables, and
    // CREATEROLE.
    script: `do $$
declare
  name text;
begin
  foreach name in array array[${roleNames.map((name) => `'${roleOf(s, name)}'`).join(', ')}] loop
    begin
      execute format('create role %I nologin', name);
    exception
      -- Roles belong to all databases of a server, so another one may have made them.
      when duplicate_object or unique_violation then null;
    end;
  end loop;
end
$$;

revoke all on schema ${s} from public, ${all};
revoke all on all tables in schema ${s} from public, ${all};
revoke all on all sequences in schema ${s} from public, ${all};
revoke all on all functions in schema ${s} from public, ${all};
grant usage on schema ${s} to ${all};

${roleNames.map(forRole).join('\n\n')}

do $$
declare
  name text;
  columns text;
begin
  foreach name in array array[${messageTables.map((name) => `'${name}'`).join(', ')}] loop
    select string_agg(format('%I', attname), ', ' order by attnum) into columns
    from pg_attribute
    where attrelid = format('%I.%I', '${bare}', name)::regclass and attnum > 0 and not attisdropped
      and attname <> all (array[${hiddenFromReaders.map((name) => `'${name}'`).join(', ')}]);
    execute format('grant select (%s) on %I.%I to %I', columns, '${bare}', name, '${roleOf(s, 'reader')}');
  end loop;
end
$$;
`,

    // Who is a member, by itself or through others; and whether the role has been let in here. Roles belong to all
    // databases of a server, so that it is there says nothing.
    members: planned(
      { names: texts },
      `select asked.name as role, r.oid is not null as found,
        coalesce(has_schema_privilege(r.oid, to_regnamespace('${bare}'), 'usage'), false) as applied,
        coalesce(array_agg(m.rolname::text order by m.rolname)
          filter (where m.rolname is not null), '{}') as members
      from unnest($names) with ordinality as asked(name, nr)
      left join pg_roles as r on r.rolname = asked.name
      left join pg_auth_members as a on a.roleid = r.oid
      left join pg_roles as m on m.oid = a.member
      group by asked.name, asked.nr, r.oid order by asked.nr`,
    ).gives<MembersRow>(),
  }
})
