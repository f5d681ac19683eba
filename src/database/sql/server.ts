/** Statements about the server and the transaction, independent of any schema. */
export const begin = 'begin'
export const commit = 'commit'
export const rollback = 'rollback'
/**
 * Which server this is, and since when without a crash. A failover leads to another one, a restart has another start,
 * and a crash of one process, after which all others begin anew, throws the statistics away.
 */
export const serverIdentity = `(pg_postmaster_start_time()::text || ' ' ||
  coalesce((select stats_reset from pg_stat_wal)::text, ''))`
/**
 * Which transaction this is: its id, the server's start and its own. An id alone is not enough to ask for its outcome
 * later: what a crash or a failover has swept away unwritten, its id included, is given out again.
 */
export const currentXid = `select pg_current_xact_id_if_assigned()::text || ' ' ||
  extract(epoch from pg_postmaster_start_time()) || ' ' || extract(epoch from now()) as xid`
/**
 * What became of a transaction. That it was committed is believed only of the very server that began it, and if that
 * server has not crashed since, which throws its statistics away: otherwise another one may have been given the id.
 * An id that was never given out since is one of those swept away.
 */
export const transactionStatus = `with asked as (
    select split_part($1, ' ', 1)::xid8 as xid, nullif(split_part($1, ' ', 2), '')::numeric as server,
      nullif(split_part($1, ' ', 3), '')::numeric as began),
  judged as (select xid, coalesce(server <> extract(epoch from pg_postmaster_start_time())
      or began < (select extract(epoch from stats_reset) from pg_stat_wal), false) as crashed from asked)
  select case
    when not crashed then pg_xact_status(xid)
    when xid >= pg_snapshot_xmax(pg_current_snapshot()) then 'aborted'
    else nullif(pg_xact_status(xid), 'committed') end as status
  from judged`
export const serverFacts = `select current_setting('server_version_num')::int as version,
  current_setting('server_encoding') as encoding, pg_is_in_recovery() as recovery`

/**
 * Settings of the connections that do only bookkeeping: leases, claims, settling, deleting what was sent.
 *
 * A server's crash may undo the last half second of it, which leases, fences and the inbox absorb, so these commits do
 * not wait for the disk. The plans are pinned to index scans: a plan made while the table was empty would otherwise be
 * kept while it grows to 100,000 rows, and only plain index scans tell the index which of its entries are dead.
 */
export const bookkeepingSettings = {
  synchronous_commit: 'off',
  enable_seqscan: 'off',
  enable_bitmapscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
  jit: 'off',
  statement_timeout: '10s',
  lock_timeout: '2s',
  idle_in_transaction_session_timeout: '30s',
} as const

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
export const tryConnectionCheck = "select set_config('client_connection_check_interval', '1s', false)"

/** Whether this is the primary, and not set to be read-only either. */
export const takesWrites =
  "select not pg_is_in_recovery() and current_setting('transaction_read_only') = 'off' as writable"

/** Whether the settings above are in force here. A pooler that ignores them shares its sessions. */
export const hasBookkeepingSettings = "select current_setting('synchronous_commit') = 'off' as ours"
