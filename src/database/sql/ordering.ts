import { lockSpace, op } from './qualified.ts'

/** Of one call, and of one transaction over all its calls: the most keys that are locked each by itself. */
const keysMax = { call: 500, transaction: 2000 }
/** Stands for too many keys: from here on the transaction locks lanes. */
const tooMany = 1_000_000

// The caller's search_path counts here, see qualified.ts.
const hash = (key: string): string => `pg_catalog.hashtext(${key})`
const alone = 'pg_catalog.pg_advisory_xact_lock'
const shared = 'pg_catalog.pg_advisory_xact_lock_shared'
/** Not there, or empty again since the end of a transaction: 0. */
const taken = `pg_catalog.concat('0', pg_catalog.current_setting('twinbox.ordering_keys', true))::int`
const take = (count: string): string =>
  `pg_catalog.set_config('twinbox.ordering_keys', (${count})::pg_catalog.text, true)`
const laneSpace = (s: string): string => lockSpace(s, 'lane')
const keySpace = (s: string): string => lockSpace(s, 'outbox')
/** How many it has really locked, if it seems to be too many: a key is counted again each time. */
const recounted = (s: string, wanted: string): string => `case
    when taken ${op('>=')} ${tooMany} or (taken ${op('+')} ${wanted}) ${op('<=')} ${keysMax.transaction} then taken
    else (
      select pg_catalog.count(*)::int from pg_catalog.pg_locks
      where locktype ${op('=')} 'advisory' and pid ${op('=')} pg_catalog.pg_backend_pid()
        and classid ${op('=')} '${s}.outbox'::pg_catalog.regclass::pg_catalog.oid and objsubid ${op('=')} 2
    ) end`

/**
 * Locks keys until the end of the transaction, so that publishers of one key come one after the other.
 *
 * The server has room for some thousands of locks, for everybody together. So whoever has many keys locks their lanes
 * instead, of which there are 64. To be kept out by that, whoever locks keys shares the locks of their lanes. In one call
 * all take them in one order, lanes first: of two calls, one waits for the other, and never both. How many keys the
 * transaction has locked is kept in a setting of the transaction.
 *
 * `keys` is a from-item with one column of texts.
 */
export const orderingLocks = (s: string, keys: string): string => `(
    with k as materialized (
      select distinct ${hash('k.key')} as number, ${s}.lane_of(k.key)::int as lane
      from ${keys} as k(key) where k.key ${op('<>')} ''
    ),
    known as materialized (
      select wanted, case when wanted ${op('>')} ${keysMax.call} then taken else ${recounted(s, 'wanted')} end as taken
      from (select pg_catalog.count(*)::int as wanted, ${taken} as taken from k offset 0) as k
    ),
    chosen as materialized (
      select few, ${take(`case when few then taken ${op('+')} wanted when wanted ${op('>')} ${keysMax.call} then taken else ${tooMany} end`)}
      from (
        select *, wanted ${op('<=')} ${keysMax.call} and (taken ${op('+')} wanted) ${op('<=')} ${keysMax.transaction} as few
        from known offset 0
      ) as known
    )
    select pg_catalog.count(case when l.alone then ${alone}(l.space, l.number) else ${shared}(l.space, l.number) end)
    from (
      select distinct 1 as turn, ${laneSpace(s)} as space, k.lane as number, not chosen.few as alone
      from k cross join chosen
      union all
      select 2, ${keySpace(s)}, k.number, true from k cross join chosen where chosen.few
      order by turn, number
    ) as l
  )`

/** The same for one key, which most calls have. */
export const orderingLock = (s: string, key: string): string => `(
    select case when taken ${op('<')} ${keysMax.transaction}
      then pg_catalog.concat(${shared}(${laneSpace(s)}, ${s}.lane_of(${key})::int),
        ${alone}(${keySpace(s)}, ${hash(key)}), ${take(`taken ${op('+')} 1`)})
      else pg_catalog.concat(${alone}(${laneSpace(s)}, ${s}.lane_of(${key})::int), ${take(String(tooMany))}) end
    from (select ${recounted(s, '1')} as taken from (select ${taken} as taken offset 0) as t offset 0) as t
    where ${key} is not null
  )`
