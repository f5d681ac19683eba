import { layout } from '../../src/database/layout.ts'
import { refusalText } from '../stage/moody.ts'
import { placesOf } from './places.ts'

/** What a handler says of a service that is away. No message may die of it once the first attempts of so many have failed alike. */
export const awayText = 'The service is away'
const awayMax = 5

/** What must not be. Each query brings the messages that break one rule, with what there is to say about it. */
export function checks(s: string): Readonly<Record<CheckName, string>> {
  const { excuses } = placesOf(s, 'soak')
  return {
    lost: `
        select l.id, 'never handled, and no dead letter' as why from ${s}.soak_ledger as l
        where not exists (select from ${s}.soak_effect as e where e.n = l.n)
          and not exists (select from ${s}.dead_letter as d where d.id = l.id)
        union all
        select null, format('transaction %s was acknowledged with %s messages, and the ledger has %s', t.tx, t.count, count(l.n))
        from ${s}.soak_attempt as t left join ${s}.soak_ledger as l using (tx)
        where t.outcome = 'ok' group by t.tx, t.count having count(l.n) <> t.count
        union all
        select d.id, 'the broker has never refused it, and it was buried in the outbox: ' || d.reason from ${s}.dead_letter as d
        where d.consumer = '' and d.reason not like '%${refusalText}%'`,

    ghosts: `
        select e.id, 'handled, and never published' as why from ${s}.soak_effect as e
        where not exists (select from ${s}.soak_ledger as l where l.n = e.n and l.id = e.id)
        union all
        select d.id, 'a dead letter that was never published' from ${s}.dead_letter as d
        where not exists (select from ${s}.soak_ledger as l where l.id = d.id)
        union all
        select l.id, 'its transaction was said to have been rolled back' from ${s}.soak_ledger as l
        join ${s}.soak_attempt as t using (tx) where t.outcome = 'fail'
        union all
        select null, format('transaction %s has %s of its %s messages', t.tx, count(l.n), t.count)
        from ${s}.soak_attempt as t join ${s}.soak_ledger as l using (tx)
        where t.outcome = 'info' group by t.tx, t.count having count(l.n) <> t.count`,

    altered: `
        select e.id, 'it arrived changed' as why from ${s}.soak_effect as e join ${s}.soak_ledger as l using (n)
        where (e.hash, e.topic, e.key) is distinct from (l.hash, l.topic, l.key)`,

    duplicateEffects: `
        select e.id, twice.count || ' effects' as why from (
          select min(serial) as serial, count(*) as count from ${s}.soak_effect
          where not plain group by n having count(*) > 1) as twice
        join ${s}.soak_effect as e using (serial)
        union all
        select e.id, 'handled, and a dead letter as well' from ${s}.soak_effect as e join ${s}.dead_letter as d using (id)
        -- What a broker refuses for good it may have taken before, from a relay that was killed before it knew.
        where not e.plain and d.consumer <> ''`,

    // Of two messages, `n` came too early and `o` too late. A sequence that had gone back excuses some.
    orderViolations: `
        select id, 'handled before a message of its key that had been committed before it was begun: ' || other as why from (
          select *, min(ended) over (
            partition by key order by serial desc rows between unbounded preceding and 1 preceding) as later
          from walk) as n
        cross join lateral (
          select o.id as other from walk as o
          where o.key = n.key and o.serial > n.serial and o.ended < n.begun and not ${excuses('n.id', 'o.id')} limit 1) as pair
        where later < begun
        union all
        select id, 'handled after a message of its key that was committed after it: ' || other from (
          select *, max(at) over (
            partition by key order by serial rows between unbounded preceding and 1 preceding) as before
          from walk where locked) as o
        cross join lateral (
          select n.id as other from walk as n
          where n.key = o.key and n.locked and n.serial < o.serial and n.at > o.at and not ${excuses('n.id', 'o.id')} limit 1) as pair
        where before > at
        union all
        select id, 'handled after a message of its key that stood behind it in their transaction: ' || other from (
          select *, max(at) over (
            partition by key, tx order by serial rows between unbounded preceding and 1 preceding) as before
          from walk) as o
        cross join lateral (
          select n.id as other from walk as n
          where n.key = o.key and n.tx = o.tx and n.serial < o.serial and n.at > o.at and not ${excuses('n.id', 'o.id')} limit 1) as pair
        where before > at`,

    // A row's fence and holder are read under its lock. Those of a lane are not: a second's grace tells the write that
    // raced with a takeover, which the lock on the row decides, from the one that came after it.
    zombieWrites: `
        select e.id, format('worker %s completed it under fence %s, when worker %s held it under %s',
          e.worker, e.fence, a.holder, a.fence) as why
        from ${s}.soak_effect as e
        join ${s}.soak_audit as a on a.id = e.id and a.xid = e.xid and a.op = 'gone'
        left join (
          select lane, fence, min(at) as at from ${s}.soak_audit where op = 'lane' group by lane, fence
        ) as taken on taken.lane = a.lane and taken.fence = a.fence
        where not e.plain and a.holder is distinct from e.worker and (
          a.lane >= ${layout.lanes} or a.fence > e.fence and taken.at < a.began - interval '1 second')`,

    // Its effect and its end in the inbox are one transaction.
    halfDone: `
        select e.id, 'its effect was committed without its completion' as why from ${s}.soak_effect as e
        where not e.plain and not exists (
          select from ${s}.soak_audit as a where a.id = e.id and a.xid = e.xid and a.op = 'gone')`,

    fenceJumps: `
        select null::uuid as id, format('lane %s went from fence %s to %s', lane, before, fence) as why from (
          select op, lane, fence, lag(fence) over (partition by op, lane order by serial) as before
          from ${s}.soak_audit where op in ('lane', 'outbox lane')) as x
        where fence <= before`,

    dedupe: `
        select (array_agg(id))[1] as id, format('%s messages with the dedupe key %s', count(*), dedupe_key) as why
        from ${s}.soak_ledger where dedupe_key is not null group by topic, dedupe_key having count(*) > 1
        union all
        select d.id, 'called the first of its dedupe key, and was not' from ${s}.soak_duplicate as d
        where not exists (select from ${s}.soak_ledger as l where l.id = d.id and l.dedupe_key = d.dedupe_key)`,

    attempts: `
        select id, attempt || ' attempts' as why from ${s}.soak_effect where attempt > $1::int
        union all
        -- While next to nothing comes in, nobody can tell a service that is away from a bad message.
        select d.id, 'died of the service being away: ' || d.reason from ${s}.dead_letter as d
        join (select id, process, min(at) as first, max(at) as last from ${s}.soak_away group by id, process) as own using (id)
        where d.reason like '%${awayText}%' and (
          select count(distinct a.id) from ${s}.soak_away as a
          where a.process = own.process and a.attempt = 1 and a.at between own.first and own.last - 1000000) >= ${awayMax}
        union all
        select id, count(*) || ' calls' from ${s}.soak_effect where plain group by id having count(*) > $1::int`,

    // What was told is what is: an event comes after the commit that it is about.
    falseReports: `
        select r.id, 'reported as handled, and there is no effect' as why from ${s}.soak_reported as r
        where not exists (select from ${s}.soak_effect as e where e.id = r.id)`,

    unrest: `
        select id, 'still in the outbox' as why from ${s}.outbox
        union all select id, 'still in the inbox' from ${s}.inbox
        union all select id, 'still deferred' from ${s}.deferred
        union all select id, 'still parked' from ${s}.parked_message
        union all select null, format('lane %s of %L is held by worker %s', lane, consumer, holder) from ${s}.lane
          where holder is not null
        union all select null, format('worker %s has not ended', id) from ${s}.worker where ended_at is null
        union all select e.id, 'handled, and not seen' from ${s}.soak_effect as e
          where not exists (select from ${s}.seen as k where k.id = e.id)`,
  }
}

/** The rules. What each query looks for stands in it. */
export type CheckName =
  | 'lost'
  | 'ghosts'
  | 'altered'
  | 'duplicateEffects'
  | 'orderViolations'
  | 'zombieWrites'
  | 'halfDone'
  | 'fenceJumps'
  | 'dedupe'
  | 'attempts'
  | 'falseReports'
  | 'unrest'

/** The first of what a check finds, and how many there are. */
export const firstOf = (check: string): string =>
  `select (count(*) over ())::int as count, found.* from (${check}) as found limit 10`
