import type { Program } from './worker.ts'

/** What the victim is in the middle of, see `scenes.ts`. */
export type Given =
  | 'plain'
  | 'sent'
  | 'again'
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

const starting = ['after worker.nextId', 'after worker.lock', 'after worker.register', 'after worker.peers']

const publisher: Cell[] = [
  // Neither data nor message, or both: what the user's program does next is to do it again.
  cell('publisher', 'before outbox.publishOne', { given: 'published', attempt: null }),
  cell('publisher', 'after outbox.publishOne', { given: 'published', attempt: null }),
  cell('publisher', 'before commit outbox.publishOne', { given: 'published', attempt: null }),
  cell('publisher', 'after commit outbox.publishOne', { given: 'published' }),
  cell('publisher', 'before commit outbox.publishOneTimed', { given: 'deduped' }),
  cell('publisher', 'after commit outbox.publishOneTimed', { given: 'deduped' }),
  cell('publisher', 'before commit outbox.publishOneTimed', { given: 'timed', attempt: null }),
  cell('publisher', 'after commit outbox.publishOneTimed', { given: 'timed' }),
]

const relay: Cell[] = [
  ...each(
    'relay',
    [
      ...[
        ...starting,
        'after lane.take',
        'before parking.parkedKeys',
        'after lane.renew',
        'after worker.beat',
      ],
      'before schedule.anyDue',
    ],
    { given: 'idle' },
  ),
  ...both('relay', 'after outbox.step'),
  ...both('relay', 'relay.before_send'),
  ...both('relay', 'relay.after_send', { dropped: 1 }),
  ...both('relay', 'relay.before_delete', { dropped: 1 }),
  ...both('relay', 'relay.after_delete'),
  cell('relay', 'before waiting.promoteOutbox', { given: 'delayed', key: 'd' }),
  cell('relay', 'after waiting.promoteOutbox', { given: 'delayed', key: 'd' }),
  ...both('relay', 'before waiting.buryOutbox', { given: 'expiring', attempt: null, letter: 0 }),
  ...both('relay', 'after waiting.buryOutbox', { given: 'expiring', attempt: null, letter: 0 }),
  // Refused twice, which is once too often: parked in between, and then dead. What waits behind it goes on after that.
  ...[1, 2].flatMap((hit) =>
    each('relay', ['before parking.parkOutbox', 'after parking.parkOutbox'], {
      given: 'refused',
      hit,
      attempt: null,
      letter: 2,
    }),
  ),
  ...each(
    'relay',
    [...['before parking.dueKeys', 'before parking.releaseOutbox', 'after parking.releaseOutbox']],
    {
      given: 'refused',
      attempt: null,
      letter: 2,
    },
  ),
  ...each('relay', ['before parking.followOutbox', 'after parking.followOutbox'], {
    given: 'refused and followed',
    attempt: null,
    letter: 2,
  }),
  ...each(
    'relay',
    [
      'before waiting.deferOutbox',
      'after waiting.deferOutbox',
      'before waiting.buryOutbox',
      'after waiting.buryOutbox',
    ],
    {
      given: 'refused',
      key: null,
      attempt: null,
      letter: 2,
    },
  ),
  ...each('relay', ['before lane.release', 'after lane.release', 'before worker.end', 'after worker.end'], {
    given: 'stopping',
  }),
  // Each tick once, whoever publishes it.
  ...each(
    'relay',
    [
      ...[
        'before schedule.lockDue',
        'after schedule.lockDue',
        'before schedule.publish',
        'after schedule.publish',
      ],
      ...['after schedule.move', 'after commit schedule.move'],
    ],
    { given: 'scheduled', attempt: null },
  ),
]

const receiver: Cell[] = [
  ...both('receiver', 'receiver.before_commit'),
  ...both('receiver', 'receiver.after_commit', { dropped: 1 }),
  ...each('receiver', ['before refused.refuse', 'after refused.refuse'], {
    given: 'foreign',
    attempt: null,
    letter: 0,
  }),
  ...each('receiver', ['before worker.end', 'after worker.end'], { given: 'stopping' }),
]

const claimer: Cell[] = [
  ...each(
    'claimer',
    [
      ...[
        ...starting,
        'before lane.create',
        'after lane.take',
        'before parking.parkedKeys',
        'after lane.renew',
      ],
      ...['after worker.beat', 'after inbox.heads'],
      ...['before reading.read', 'before inbox.claim', 'claimer.after_claim'],
    ],
    { given: 'idle' },
  ),
  // The attempt counts from the claim on, since nobody knows how far it came.
  cell('claimer', 'after reading.read', { attempt: 2 }),
  cell('claimer', 'after inbox.claim', { key: null, attempt: 2 }),
  ...['claimer.before_handle', 'claimer.before_settle', 'before complete_and_commit'].flatMap((at) =>
    both('claimer', at, { attempt: 2 }),
  ),
  ...both('claimer', 'after complete_and_commit'),
  ...both('claimer', 'claimer.after_commit'),
  ...both('claimer', 'before complete_and_commit', { given: 'batch', attempt: 2 }),
  ...both('claimer', 'after complete_and_commit', { given: 'batch' }),
  ...both('claimer', 'before complete_and_commit', { given: 'kept', attempt: 2 }),
  ...both('claimer', 'after complete_and_commit', { given: 'kept' }),
  ...both('claimer', 'before completion.complete', { given: 'outside', attempt: 2, effects: 2 }),
  ...both('claimer', 'after completion.complete', { given: 'outside' }),
  ...each('claimer', ['after lane.renew'], { given: 'held', hit: 2, attempt: 2 }),
  ...each('claimer', ['after inbox.renew'], { given: 'held', key: null, attempt: 2 }),
  ...both('claimer', 'before inbox.fail', { given: 'throws', attempt: 2 }),
  // In flight, and waiting for its next attempt: that counts as one, since nobody knows whether it had begun.
  ...both('claimer', 'after inbox.fail', { given: 'throws', attempt: 3 }),
  ...each('claimer', ['before waiting.defer', 'after waiting.defer'], {
    given: 'throws and waits',
    key: null,
    attempt: 2,
  }),
  // Its own claim of what it promotes may be under way on another connection.
  cell('claimer', 'after waiting.promote', { given: 'throws and waits', key: null, attempt: 2, or: 3 }),
  cell('claimer', 'before parking.park', { given: 'later', attempt: 3 }),
  cell('claimer', 'after parking.park', { given: 'later', attempt: 2 }),
  ...each('claimer', ['before parking.follow', 'after parking.follow'], { given: 'followed', attempt: 2 }),
  ...each('claimer', ['before parking.dueKeys', 'before parking.release'], { given: 'released', attempt: 2 }),
  // Back in its lane, where its holder may have begun it.
  cell('claimer', 'after parking.release', { given: 'released', attempt: 3 }),
  ...each('claimer', ['before parking.park'], { given: 'dead', attempt: 1, letter: 2 }),
  ...each('claimer', ['after parking.park'], { given: 'dead', attempt: 1, letter: 1 }),
  ...each('claimer', ['before waiting.bury'], { given: 'dead', key: null, attempt: 1, letter: 2 }),
  ...each('claimer', ['after waiting.bury'], { given: 'dead', key: null, attempt: 1, letter: 1 }),
  ...both('claimer', 'before waiting.bury', { given: 'expiring', attempt: null, letter: 1 }),
  ...both('claimer', 'after waiting.bury', { given: 'expiring', attempt: null, letter: 0 }),
  // Given back, no attempt is held against it.
  cell('claimer', 'before inbox.release', { given: 'stopping', key: null, attempt: 2 }),
  cell('claimer', 'after inbox.release', { given: 'stopping', key: null }),
  cell('claimer', 'before lane.release', { given: 'stopping', attempt: 2 }),
  ...['after lane.release', 'before worker.end', 'after worker.end'].flatMap((at) =>
    both('claimer', at, { given: 'stopping' }),
  ),
  // One has died with it in flight before. That is one attempt, however many die before they have taken it over.
  ...['after worker.declareDead', 'after worker.disconnect'].flatMap((at) =>
    both('claimer', at, { given: 'inherited', attempt: 2 }),
  ),
  ...each(
    'claimer',
    ['after lane.take', 'before inbox.charge', 'after inbox.charge', 'before parking.parkedKeys'],
    {
      given: 'inherited',
      attempt: 2,
    },
  ),
  cell('claimer', 'after reading.read', { given: 'inherited', attempt: 3 }),
  cell('claimer', 'after inbox.claim', { given: 'inherited', key: null, attempt: 3 }),
]

/** Of a topic that this claimer has no handler for, and that the next one has. */
const unhandled: Cell[] = [
  ...both('claimer', 'before unhandled.setAside', { given: 'unknown', attempt: 2 }),
  ...both('claimer', 'after unhandled.setAside', { given: 'unknown' }),
  ...each('claimer', ['before unhandled.bringBack', 'after unhandled.bringBack'], { given: 'aside' }),
  cell('claimer', 'before unhandled.adopt', { given: 'aside', key: null }),
  cell('claimer', 'after unhandled.adopt', { given: 'aside', key: null, attempt: 2 }),
]

/** What has not been handled survives what prunes, and what prunes survives its death. */
const upkeep: Cell[] = ['dedupe', 'seen', 'workers', 'handled', 'dead', 'audit'].flatMap((kind) => {
  const table = { dead: 'dead_letter', workers: 'worker' }[kind] ?? kind
  return each('upkeep', [`before prune_${table}`, `after prune_${table}`], { given: `pruned ${kind}` })
})

/** Of the Postgres broker, the relay itself writes the inbox: it moves messages there, or sends what is to be seen. */
const written: Cell[] = [
  ...both('relay', 'before moving.move'),
  ...both('relay', 'after moving.move'),
  // What follows is moved by the read that has found it.
  ...both('relay', 'before moving.readAndMove', { given: 'again' }),
  ...both('relay', 'after moving.readAndMove', { given: 'again' }),
  ...both('relay', 'relay.after_delete', { given: 'again', hit: 2 }),
  ...[
    'before receive.receive',
    'after receive.receive',
    'relay.before_send',
    'relay.after_send',
    'relay.before_delete',
    'relay.after_delete',
  ].flatMap((at) => both('relay', at, { given: 'sent' })),
]

/** Whether it has to do with what is sent to the broker, or taken from it: all else is the same over each broker. */
const meetsBroker = ({ role, given = 'plain' }: Cell): boolean =>
  (role === 'relay' && given === 'plain') || (role === 'receiver' && given !== 'stopping')

export const cells = {
  postgres: [...publisher, ...relay, ...written, ...claimer, ...unhandled, ...upkeep],
  rabbitmq: [...publisher, ...relay, ...receiver, ...claimer, ...unhandled, ...upkeep],
  kafka: [...publisher, ...relay, ...receiver, ...claimer, ...unhandled, ...upkeep],
  zeromq: [...publisher, ...relay, ...receiver, ...claimer, ...unhandled, ...upkeep],
}

/** Where relay and receiver are both ends of the wire, these four are what differs from a broker that stores. */
const betweenBoth = [
  'relay.before_send',
  'relay.after_send',
  'receiver.before_commit',
  'receiver.after_commit',
]

/** Those that are played over a broker: without `all`, what is the same over each is played over Postgres alone. */
export const played = (kind: keyof typeof cells, all = false): readonly Cell[] =>
  cells[kind].filter(
    (one) =>
      all ||
      kind === 'postgres' ||
      (kind === 'zeromq' ? one.key !== null && betweenBoth.includes(one.at) : meetsBroker(one)),
  )

export const nameOf = ({ role, at, hit, given, key }: Cell): string =>
  [role, given && `(${given})`, at, hit, key === null && 'without a key'].filter(Boolean).join(' ')
