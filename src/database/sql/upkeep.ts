import { noting, signing } from './audit.ts'
import { float8, int, optional, text } from './parameter.ts'
import { each, perSchema, planned } from './statement.ts'

/** What can be pruned. Of dead letters those that hold no key back; of all else only what is known about past messages. */
export const pruneKinds = ['dedupe', 'seen', 'workers', 'handled', 'dead', 'audit'] as const
export type PruneKind = (typeof pruneKinds)[number]

/** How many, of which consumer (null: of all), and how old. */
const pruning = { most: int, consumer: optional(text), olderThanMs: optional(float8) }
/** Those that workers prune by themselves, of which nothing is written down; an operator leaves word of how many. */
const silentKinds = ['dedupe', 'seen', 'workers', 'handled'] as const

export interface PrunedRow {
  readonly count: number
  /** Whether nobody else was at it. */
  readonly ours: boolean
}

/**
 * Deleting what has outlived its window, in bounded batches. The dedupe keys say themselves when they end.
 *
 * None is prepared by name, and all run with the planner's own settings: what is old is found by BRIN, which takes a
 * bitmap scan, and a plan made for one window is not one for another. And the time is that of the statement, or no index
 * could be searched for it.
 */
export const upkeepSql = perSchema('upkeep', (s) => {
  const old = (column: string): string =>
    `${column} < statement_timestamp() - $olderThanMs * interval '1 millisecond'`
  const ofConsumer = '($consumer is null or t.consumer = $consumer)'
  const tables: Record<PruneKind, { table: string; where: string }> = {
    dedupe: {
      table: 'dedupe',
      where: 't.expires_at < statement_timestamp() and $consumer is null and $olderThanMs is null',
    },
    seen: { table: 'seen', where: `${ofConsumer} and ${old('t.seen_at')}` },
    workers: { table: 'worker', where: `$consumer is null and ${old('t.ended_at')}` },
    handled: { table: 'handled', where: `${ofConsumer} and ${old('t.handled_at')}` },
    dead: {
      table: 'dead_letter',
      where: `${ofConsumer} and ${old('t.died_at')} and not exists (
        select from ${s}.parked as p
        where p.consumer = t.consumer and p.lane = ${s}.lane_of(t.key) and p.key = t.key
          and p.until = 'infinity' and p.blocker = t.seq
      )`,
    },
    audit: { table: 'audit', where: `${ofConsumer} and ${old('t.at')}` },
  }
  const turn = (kind: PruneKind): string => `turn as materialized (
        select pg_try_advisory_xact_lock('${s}.${tables[kind].table}'::regclass::oid::int, hashtext(coalesce($consumer, '*'))) as ours
      )`
  const deleting = (kind: PruneKind, audited = ''): string => `with ${turn(kind)},
      gone as (
        delete from ${s}.${tables[kind].table} as t
        where (select ours from turn) is not false and t.ctid = any (array(
          select t.ctid from ${s}.${tables[kind].table} as t where ${tables[kind].where} limit $most
        )) returning t.*
      )${audited}
      select count(*) as count, (select ours from turn) is not false as ours from gone`

  return {
    // One worker at a time. Its turn ends with the one transaction that deletes a batch, so that no death can keep it.
    prune: each(silentKinds, (kind) => planned(pruning, deleting(kind)).gives<PrunedRow>()),
    // Its own statement: a worker's role need not write down anything, and may not.
    pruneNoted: each(silentKinds, (kind) =>
      planned(
        { ...pruning, ...signing },
        deleting(
          kind,
          `, audited as (
        ${noting(s, 'prune', {
          from: 'gone having count(*) > 0',
          ...{ consumer: "coalesce($consumer, '')", what: `'${kind} ' || count(*)` },
        })}
      )`,
        ),
      ).gives<PrunedRow>(),
    ),
    pruneDead: planned(
      { ...pruning, ...signing },
      deleting(
        'dead',
        `, audited as (
        insert into ${s}.audit (action, who, why, consumer, topic, key, id, seq, died_at, attempt, reason, errors)
        select 'prune', $who, $why, consumer, topic, key, id, seq, died_at, attempt, reason, errors from gone
      )`,
      ),
    ).gives<PrunedRow>(),
    // By a function, which nobody can keep from writing down that it was done.
    pruneAudit: planned(
      { ...pruning, ...signing },
      `with ${turn('audit')}
      select t.ours, case when t.ours
        then ${s}.prune_audit($most, $olderThanMs * interval '1 millisecond', $consumer, $who, $why) else 0 end as count
      from turn as t`,
    ).gives<PrunedRow>(),
    count: each(pruneKinds, (kind) =>
      planned(
        pruning,
        `select count(*) as count from (
        select from ${s}.${tables[kind].table} as t where ${tables[kind].where} limit $most
      ) as t`,
      ).gives<{ readonly count: number }>(),
    ),
  }
})
