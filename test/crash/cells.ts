import type { Program } from './worker.ts'

/** What the victim is in the middle of, see `scenes.ts`. */
export type Given =
  | 'plain'
  | 'idle'
  | 'published'
  | 'outside'
  | 'batch'
  | 'kept'
  | 'throws'
  | 'throws and waits'
  | 'later'
  | 'followed'
  | 'released'
  | 'dead'
  | 'refused'
  | 'refused and followed'
  | 'delayed'
  | 'expiring'
  | 'held'
  | 'stopping'
  | 'inherited'
  | 'scheduled'
  | 'foreign'
  | 'deduped'
  | 'timed'
  | 'unknown'
  | 'aside'
  | `pruned ${string}`

/** A process that dies at a point, and what becomes of the one message that it has in flight there. */
export interface Cell {
  readonly role: Program['role']
  readonly at: string
  readonly hit?: number
  readonly given?: Given
  /** The key of that message. */
  readonly key: string | null
  /** The attempt at which it is handled in the end; null if it never is. */
  readonly attempt: number | null
  /** Or at this one, where two statements of it were under way and nobody can say which came first. */
  readonly or?: number
  /** How often it is handled; only outside of a transaction may that be more than once. */
  readonly effects?: number
  /** How many copies of it the receivers drop. */
  readonly dropped?: number
  /** How many attempts its dead letter counts, if it becomes one. */
  readonly letter?: number
}

type Outcome = Partial<Cell>
const cell = (role: Cell['role'], at: string, outcome: Outcome = {}): Cell => ({
  role,
  at,
  key: 'a',
  attempt: 1,
  ...outcome,
})
/** The same with a key and without. */
const both = (role: Cell['role'], at: string, outcome: Outcome = {}): Cell[] =>
  ['a', null].map((key) => cell(role, at, { key, ...outcome }))
const each = (role: Cell['role'], points: readonly string[], outcome: Outcome = {}): Cell[] =>
  points.map((at) => cell(role, at, outcome))

const starting = ['after worker_id', 'after worker_lock', 'after worker_register', 'after worker_peers']

const publisher: Cell[] = [
  // Neither data nor message, or both: what the user's program does next is to do it again.
  cell('publisher', 'before publish_one', { given: 'published', attempt: null }),
  cell('publisher', 'after publish_one', { given: 'published', attempt: null }),
  cell('publisher', 'before commit publish_one', { given: 'published', attempt: null }),
  cell('publisher', 'after commit publish_one', { given: 'published' }),
  cell('publisher', 'before commit publish_deduped', { given: 'deduped' }),
  cell('publisher', 'after commit publish_deduped', { given: 'deduped' }),
  cell('publisher', 'before commit publish_timed', { given: 'timed', attempt: null }),
  cell('publisher', 'after commit publish_timed', { given: 'timed' }),
]

const relay: Cell[] = [
  ...each(
    'relay',
    [
      ...[...starting, 'after take_lanes', 'before parked_keys', 'after renew_lanes', 'after worker_beat'],
      'before schedules_due',
    ],
    { given: 'idle' },
  ),
  ...both('relay', 'after relay_step'),
  ...both('relay', 'relay.before_send'),
  ...both('relay', 'relay.after_send', { dropped: 1 }),
  ...both('relay', 'relay.before_delete', { dropped: 1 }),
  ...both('relay', 'relay.after_delete'),
  cell('relay', 'before promote_outbox', { given: 'delayed', key: 'd' }),
  cell('relay', 'after promote_outbox', { given: 'delayed', key: 'd' }),
  ...both('relay', 'before outbox_bury', { given: 'expiring', attempt: null, letter: 0 }),
  ...both('relay', 'after outbox_bury', { given: 'expiring', attempt: null, letter: 0 }),
  // Refused twice, which is once too often: parked in between, and then dead. What waits behind it goes on after that.
  ...[1, 2].flatMap((hit) =>
    each('relay', ['before park_outbox', 'after park_outbox'], {
      given: 'refused',
      hit,
      attempt: null,
      letter: 2,
    }),
  ),
  ...each('relay', [...['before due_keys', 'before release_parked_outbox', 'after release_parked_outbox']], {
    given: 'refused',
    attempt: null,
    letter: 2,
  }),
  ...each('relay', ['before follow_outbox', 'after follow_outbox'], {
    given: 'refused and followed',
    attempt: null,
    letter: 2,
  }),
  ...each('relay', ['before outbox_defer', 'after outbox_defer', 'before outbox_bury', 'after outbox_bury'], {
    given: 'refused',
    key: null,
    attempt: null,
    letter: 2,
  }),
  ...each('relay', ['before release_lanes', 'after release_lanes', 'before worker_end', 'after worker_end'], {
    given: 'stopping',
  }),
  // Each tick once, whoever publishes it.
  ...each(
    'relay',
    [
      ...['before lock_schedules', 'after lock_schedules', 'before publish_ticks', 'after publish_ticks'],
      ...['after move_schedules', 'after commit move_schedules'],
    ],
    { given: 'scheduled', attempt: null },
  ),
]

const receiver: Cell[] = [
  ...both('receiver', 'receiver.before_commit'),
  ...both('receiver', 'receiver.after_commit', { dropped: 1 }),
  ...each('receiver', ['before refuse', 'after refuse'], { given: 'foreign', attempt: null, letter: 0 }),
  ...each('receiver', ['before worker_end', 'after worker_end'], { given: 'stopping' }),
]

const claimer: Cell[] = [
  ...each(
    'claimer',
    [
      ...[...starting, 'before create_lanes', 'after take_lanes', 'before parked_keys', 'after renew_lanes'],
      ...['after worker_beat', 'after partition_heads'],
      ...['before read_lanes', 'before claim', 'claimer.after_claim'],
    ],
    { given: 'idle' },
  ),
  // The attempt counts from the claim on, since nobody knows how far it came.
  cell('claimer', 'after read_lanes', { attempt: 2 }),
  cell('claimer', 'after claim', { key: null, attempt: 2 }),
  ...['claimer.before_handle', 'claimer.before_settle', 'before complete_and_commit'].flatMap((at) =>
    both('claimer', at, { attempt: 2 }),
  ),
  ...both('claimer', 'after complete_and_commit'),
  ...both('claimer', 'claimer.after_commit'),
  ...both('claimer', 'before complete_and_commit', { given: 'batch', attempt: 2 }),
  ...both('claimer', 'after complete_and_commit', { given: 'batch' }),
  ...both('claimer', 'before complete_and_commit', { given: 'kept', attempt: 2 }),
  ...both('claimer', 'after complete_and_commit', { given: 'kept' }),
  ...both('claimer', 'before complete', { given: 'outside', attempt: 2, effects: 2 }),
  ...both('claimer', 'after complete', { given: 'outside' }),
  ...each('claimer', ['after renew_lanes'], { given: 'held', hit: 2, attempt: 2 }),
  ...each('claimer', ['after renew_rows'], { given: 'held', key: null, attempt: 2 }),
  ...both('claimer', 'before inbox_fail', { given: 'throws', attempt: 2 }),
  // In flight, and waiting for its next attempt: that counts as one, since nobody knows whether it had begun.
  ...both('claimer', 'after inbox_fail', { given: 'throws', attempt: 3 }),
  ...each('claimer', ['before inbox_defer', 'after inbox_defer'], {
    given: 'throws and waits',
    key: null,
    attempt: 2,
  }),
  // Its own claim of what it promotes may be under way on another connection.
  cell('claimer', 'after promote', { given: 'throws and waits', key: null, attempt: 2, or: 3 }),
  cell('claimer', 'before park', { given: 'later', attempt: 3 }),
  cell('claimer', 'after park', { given: 'later', attempt: 2 }),
  ...each('claimer', ['before follow', 'after follow'], { given: 'followed', attempt: 2 }),
  ...each('claimer', ['before due_keys', 'before release_parked'], { given: 'released', attempt: 2 }),
  // Back in its lane, where its holder may have begun it.
  cell('claimer', 'after release_parked', { given: 'released', attempt: 3 }),
  ...each('claimer', ['before park'], { given: 'dead', attempt: 1, letter: 2 }),
  ...each('claimer', ['after park'], { given: 'dead', attempt: 1, letter: 1 }),
  ...each('claimer', ['before inbox_bury'], { given: 'dead', key: null, attempt: 1, letter: 2 }),
  ...each('claimer', ['after inbox_bury'], { given: 'dead', key: null, attempt: 1, letter: 1 }),
  ...both('claimer', 'before inbox_bury', { given: 'expiring', attempt: null, letter: 1 }),
  ...both('claimer', 'after inbox_bury', { given: 'expiring', attempt: null, letter: 0 }),
  // Given back, no attempt is held against it.
  cell('claimer', 'before release_rows', { given: 'stopping', key: null, attempt: 2 }),
  cell('claimer', 'after release_rows', { given: 'stopping', key: null }),
  cell('claimer', 'before release_lanes', { given: 'stopping', attempt: 2 }),
  ...['after release_lanes', 'before worker_end', 'after worker_end'].flatMap((at) =>
    both('claimer', at, { given: 'stopping' }),
  ),
  // One has died with it in flight before. That is one attempt, however many die before they have taken it over.
  ...['after worker_declare_dead', 'after worker_disconnect'].flatMap((at) =>
    both('claimer', at, { given: 'inherited', attempt: 2 }),
  ),
  ...each('claimer', ['after take_lanes', 'before charge', 'after charge', 'before parked_keys'], {
    given: 'inherited',
    attempt: 2,
  }),
  cell('claimer', 'after read_lanes', { given: 'inherited', attempt: 3 }),
  cell('claimer', 'after claim', { given: 'inherited', key: null, attempt: 3 }),
]

/** Of a topic that this claimer has no handler for, and that the next one has. */
const unhandled: Cell[] = [
  ...both('claimer', 'before set_aside', { given: 'unknown', attempt: 2 }),
  ...both('claimer', 'after set_aside', { given: 'unknown' }),
  ...each('claimer', ['before bring_back', 'after bring_back'], { given: 'aside' }),
  cell('claimer', 'before adopt', { given: 'aside', key: null }),
  cell('claimer', 'after adopt', { given: 'aside', key: null, attempt: 2 }),
]

/** What has not been handled survives what prunes, and what prunes survives its death. */
const upkeep: Cell[] = ['dedupe', 'seen', 'workers', 'handled', 'dead', 'audit'].flatMap((kind) => {
  const table = { dead: 'dead_letter', workers: 'worker' }[kind] ?? kind
  return each('upkeep', [`before prune_${table}`, `after prune_${table}`], { given: `pruned ${kind}` })
})

/** Of the Postgres broker, the relay itself writes the inbox. */
const written: Cell[] = [...both('relay', 'before receive'), ...both('relay', 'after receive')]

/** Whether it has to do with what is sent to the broker, or taken from it: all else is the same over each broker. */
export const meetsBroker = ({ role, given = 'plain' }: Cell): boolean =>
  (role === 'relay' && given === 'plain') || (role === 'receiver' && given !== 'stopping')

export const cells = {
  postgres: [...publisher, ...relay, ...written, ...claimer, ...unhandled, ...upkeep],
  rabbitmq: [...publisher, ...relay, ...receiver, ...claimer, ...unhandled, ...upkeep],
  kafka: [...publisher, ...relay, ...receiver, ...claimer, ...unhandled, ...upkeep],
}
