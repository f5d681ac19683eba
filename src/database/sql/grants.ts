import { publishedColumns } from './columns.ts'

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
/** Of which there may be one for each consumer, see narrowing.ts. */
export const narrowedRoles = ['receiver', 'claimer'] as const satisfies readonly RoleName[]

/** Of one consumer, or of the whole schema. */
export const roleOf = (schema: string, role: RoleName, consumer: string | null = null): string =>
  `${schema.replaceAll('"', '')}_${role}${consumer === null ? '' : `_${consumer}`}`

/** The comment of a role that we made. Another one's role of that name may have members whom nobody meant. */
export const markOf = (schema: string, role: RoleName, consumer: string | null = null): string =>
  `twinbox role ${role} of schema ${schema.replaceAll('"', '')}${consumer === null ? '' : ` for consumer ${consumer}`}`

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

/** What a worker's row says, but who was logged in: that is the database's to say, see `disconnecting` in worker.ts. */
const registered = ['id', 'kind', 'consumer', 'host', 'pid', 'version', 'application', 'locked_on', 'topics']
const beating = [
  'beat_at',
  'in_flight',
  'busy_topics',
  'busy_rates',
  'locked_on',
  'sign',
  'stuck_topic',
  'stuck_since',
  'broker_error',
  'broker_down_since',
]
const ending = ['ended_at', 'ended_by', 'lane_assignees', 'row_assignees', 'reserved_until']
/** Registering, giving signs of life, declaring others dead. */
const membership = [
  on('worker', 'select'),
  only('worker', 'insert', ...registered),
  only('worker', 'update', ...beating, ...ending),
  on('incarnation', 'select', 'insert'),
  on('migration', 'select'),
]
/** What is said of what was done. Number, time and login are the database's to say. */
const audited = only(
  'audit',
  'insert',
  ...[
    'action',
    'who',
    'why',
    'consumer',
    'topic',
    'key',
    'id',
    'seq',
    'died_at',
    'attempt',
    'reason',
    'errors',
  ],
)
/** Moving messages between lanes and the tables of those that are not ready. `for update` asks for `update`. */
const waiting = [
  on('lane', 'select', 'update'),
  on('deferred', 'select', 'insert', 'update', 'delete'),
  on('parked', 'select', 'insert', 'update', 'delete'),
  on('parked_message', 'select', 'insert', 'delete'),
  // Dead letters are pruned by whoever is told to, and each leaves a trace.
  on('dead_letter', 'select', 'insert', 'delete'),
  audited,
]

/** What a publisher may say of a message. */
const published = [...publishedColumns, 'expires_at']

/** What nobody but the workers of its consumer has to see. */
export const hiddenFromReaders = ['payload', 'body', 'headers', 'dedupe_key'] as const

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
  // Beside publisher, for `cancel`: a function takes back what is named.
  canceller: [],
  relay: [
    ...membership,
    ...waiting,
    on('lane', 'insert'),
    // Forgetting the workers who ended yesterday.
    on('worker', 'delete'),
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
    ...[...messageTables, 'lane', 'circuit', 'subscription', 'dedupe', 'seen', 'handled'].map((table) =>
      on(table, 'select', 'insert', 'update', 'delete'),
    ),
    on('worker', 'select', 'delete'),
    only('worker', 'update', ...ending),
    on('audit', 'select'),
    audited,
  ],
  // The columns of messages are found when the grants are given, so that none of a later version is forgotten.
  reader: [
    ...['migration', 'lane', 'worker', 'subscription', 'audit', 'handled', 'circuit'].map((table) =>
      on(table, 'select'),
    ),
    // Not the digest, by which a content that somebody guesses could be known again.
    only('seen', 'select', 'seen_at', 'id', 'consumer'),
  ],
}

/** Of which a worker has to see whether it has gone back. */
export const numbers: Partial<Record<RoleName, string>> = {
  relay: 'outbox_seq_seq',
  claimer: 'inbox_seq_seq',
}
export const functions: Partial<Record<RoleName, readonly string[]>> = {
  publisher: [
    'publish',
    'publish_one',
    'publish_many',
    'pending',
    'new_id',
    'lane_of',
    'sound_headers',
    'each_header_is_sound',
  ],
  relay: ['lane_of', 'sound_headers', 'each_header_is_sound', 'incarnation', 'mend_sequences'],
  receiver: ['lane_of', 'incarnation', 'mend_sequences'],
  claimer: [
    'lane_of',
    'sound_headers',
    'each_header_is_sound',
    'complete_one',
    'complete_many',
    'incarnation',
    'mend_sequences',
  ],
  canceller: ['cancel'],
  // It sees keys, and which lane a key has is no secret.
  reader: ['lane_of'],
  operator: ['lane_of', 'sound_headers', 'each_header_is_sound', 'prune_audit', 'erase_audit'],
}
