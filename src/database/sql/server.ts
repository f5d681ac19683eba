import { text } from './parameter.ts'
import { op } from './qualified.ts'
import { planned, quoted } from './statement.ts'

/** Statements about the server and the transaction, independent of any schema. */
export const begin = 'begin'
/** Of our own: what the user has made the default is for transactions of theirs. */
export const beginOurs = 'begin isolation level read committed'
export const commit = 'commit'
export const rollback = 'rollback'
/** What would fail at the commit fails here. */
export const checkNow = planned({}, 'set constraints all immediate')
/** Outside of a transaction the server refuses it with 25P01, whoever asks; inside, what these two leave behind is nothing. */
export const savepoint = 'savepoint twinbox'
export const releaseSavepoint = 'release savepoint twinbox'
/** Those of Kysely, by the names that it gives them. */
export const namedSavepoint = {
  set: (name: string): string => `savepoint ${identifier(name)}`,
  release: (name: string): string => `release savepoint ${identifier(name)}`,
  rollBackTo: (name: string): string => `rollback to savepoint ${identifier(name)}`,
}
const identifier = (name: string): string => `"${name.replaceAll('"', '""')}"`
/**
 * Which server this is, with which tables, and since when without a crash. A failover leads to another one, a restart has
 * another start, and tables that were restored in place are others. A crash of one process, after which all others begin
 * anew, empties the unlogged table behind `incarnation()`. The statistics, which a crash throws away as well, tell less: an
 * operator may reset them while all goes on. `complete_one()` and `complete_many()` compare the first two of the three.
 */
export const serverIdentity = (s: string): string =>
  `(extract(epoch from pg_postmaster_start_time())::text || ' ' || '${s}.inbox'::regclass::oid::text || ' ' ||
    coalesce(${s}.incarnation()::text, ''))`
/** Whether this is the server that a worker means: what was held, claimed or read on another one (`$server`) counts for nothing here. */
export const isHere = (s: string): string => `$server = (select ${serverIdentity(s)})`
/**
 * Which transaction this is: its id, the server's start and its own. An id alone is not enough to ask for its outcome
 * later: what a crash or a failover has swept away unwritten, its id included, is given out again.
 */
export const currentXid = `select pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text ${op('||')} ' ' ${op('||')}
  extract(epoch from pg_catalog.pg_postmaster_start_time())::pg_catalog.text ${op('||')} ' ' ${op('||')}
  extract(epoch from pg_catalog.now())::pg_catalog.text as xid`
/**
 * What became of a transaction. That it was committed is believed only of the very server that began it, and if that
 * server has not crashed since, which throws its statistics away: otherwise another one may have been given the id.
 * An id that was never given out since is one of those swept away.
 */
export const transactionStatus = planned(
  { xid: text },
  `with given as (
    select pg_catalog.string_to_array($xid, ' ') as parts),
  asked as (
    select parts[1]::pg_catalog.xid8 as xid, parts[2]::numeric as server, parts[3]::numeric as began from given),
  judged as (select xid, coalesce(server ${op('<>')} extract(epoch from pg_catalog.pg_postmaster_start_time())
      or began ${op('<')} (select extract(epoch from stats_reset) from pg_catalog.pg_stat_wal), false) as crashed from asked)
  select case
    when not crashed then pg_catalog.pg_xact_status(xid)
    when xid ${op('>=')} pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()) then 'aborted'
    when pg_catalog.pg_xact_status(xid) ${op('<>')} 'committed' then pg_catalog.pg_xact_status(xid) end as status
  from judged`,
).gives<{ readonly status: string | null }>()

export interface ServerFacts {
  readonly version: number
  readonly encoding: string
  readonly recovery: boolean
  readonly read_only: boolean
}

export const serverFacts = planned(
  {},
  `select current_setting('server_version_num')::int as version,
  current_setting('server_encoding') as encoding, pg_is_in_recovery() as recovery,
  current_setting('default_transaction_read_only')::boolean as read_only`,
).gives<ServerFacts>()

/**
 * Settings of all connections that run only statements of ours: what these depend on, and what the user, the database or
 * the process may have set otherwise for statements of their own. Handlers' connections keep what the user has set.
 */
export const ownSettings = {
  // Nobody who may create in another schema can put a function or an operator in the way.
  search_path: 'pg_catalog, pg_temp',
  datestyle: 'ISO',
  intervalstyle: 'postgres',
  timezone: 'UTC',
  bytea_output: 'hex',
  extra_float_digits: '1',
  array_nulls: 'on',
  standard_conforming_strings: 'on',
  default_transaction_isolation: 'read committed',
  default_transaction_deferrable: 'off',
  statement_timeout: '0',
  lock_timeout: '0',
  idle_in_transaction_session_timeout: '30000',
  idle_session_timeout: '0',
} as const

/** On a connection that a pool keeps for later. */
export const withoutIdleTimeout = { idle_session_timeout: '0' } as const

/** Since version 17. It ends the session, whatever is done in the transaction. */
export const withoutTransactionTimeout = { transaction_timeout: '0' } as const
export const transactionTimeoutSince = 170_000

/**
 * Settings of the connections that do only bookkeeping: leases, claims, settling, deleting what was sent, moving from the outbox to
 * inboxes beside it.
 *
 * A server's crash may undo the last half second of it, which leases, fences and the inbox absorb, so these commits do
 * not wait for the disk. The plans are pinned to index scans: a plan made while the table was empty would otherwise be
 * kept while it grows to 100,000 rows, and only plain index scans tell the index which of its entries are dead.
 */
export const bookkeepingSettings = {
  ...ownSettings,
  synchronous_commit: 'off',
  enable_seqscan: 'off',
  enable_bitmapscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  jit: 'off',
  statement_timeout: '10000',
  lock_timeout: '2000',
} as const

/** Settings as a statement, where they cannot be given at start-up: of the session, or of the transaction. */
export const setting = (
  settings: Readonly<Record<string, string>>,
  until: 'session' | 'commit' = 'session',
): string =>
  `select ${Object.entries(settings)
    .map(([name, value]) => `pg_catalog.set_config('${name}', ${quoted(value)}, ${until === 'commit'})`)
    .join(', ')}`

/**
 * A transaction of ours on a session that is not: with our settings, which end with it. By statements that read nothing: after one
 * that does, a transaction can no longer say which snapshot it wants.
 */
export const beginWith = (settings: Readonly<Record<string, string>>): string =>
  [
    beginOurs,
    ...Object.entries(settings).map(
      // A list, and not one name with a comma in it.
      ([name, value]) => `set local ${name} = ${name === 'search_path' ? value : quoted(value)}`,
    ),
  ].join('; ')

/** A transaction that only reads, each statement by a snapshot of its own: however many settings it has, two statements in one message. */
export const beginLook = (settings: Readonly<Record<string, string>>): string =>
  `${beginOurs} read only; ${setting(settings, 'commit')}`

/** Those that a connection has made for its prepared statements; each is made anew when it is needed. */
export const forgetPlans = 'discard plans'

/**
 * By these the server finds out within seconds that a client's machine has gone: a backend that waits for it would
 * otherwise hold its locks and its open transaction for two hours.
 */
export const keepaliveSettings = {
  tcp_keepalives_idle: '10',
  tcp_keepalives_interval: '5',
  tcp_keepalives_count: '3',
} as const

/**
 * A backend in the middle of a statement does not look at its connection: a killed worker's insert that waits for a
 * lock would go on waiting, and be done long after others have taken over. Not every platform can look; one that cannot
 * refuses the setting, which as a start-up parameter would refuse the connection.
 */
export const connectionCheck = { client_connection_check_interval: '1s' } as const
export const tryConnectionCheck = setting(connectionCheck)

// What follows is asked on connections of the user's as well, see qualified.ts.
/** Whether this is the primary, and not set to be read-only either. */
export const writable = `not pg_catalog.pg_is_in_recovery() and pg_catalog.current_setting('transaction_read_only') ${op('=')} 'off'`
export const takesWrites = `select ${writable} as writable`

/** A parameter that no pooler knows: whether it arrives tells whether settings do. */
export const markName = 'twinbox.mark'
export const linkFacts = `select pg_catalog.current_setting('server_version_num')::int as version,
  pg_catalog.current_setting('${markName}', true) as mark, pg_catalog.pg_backend_pid() as pid`
/** What is set for a connection on which nothing is set by us. */
export const sessionFacts = `select pg_catalog.current_setting('array_nulls') as array_nulls,
  pg_catalog.current_setting('default_transaction_read_only') as read_only`
export const backendPid = 'select pg_catalog.pg_backend_pid() as pid'
