import { int, text, uuid, optional } from '../../src/database/sql/parameter.ts'
import { layout } from '../../src/database/layout.ts'
import { perSchema, prepared } from '../../src/database/sql/statement.ts'
import { breachCounts, type Rule } from './ledger.ts'

export interface Left {
  readonly outbox: number
  readonly inbox: number
  readonly deferred: number
  readonly parked: number
  readonly dead_letters: number
  readonly reason: string | null
}

/** The business of `twinbox demo`: what was committed with each message, and what the handlers made of it. */
export const demoSql = perSchema('demo', (s) => ({
  create: `
    create table ${s}.repository (name text primary key, events integer not null);
    create table ${s}.ledger (
      id uuid primary key,
      topic text not null,
      key text,
      -- The how manieth of its key, in the order of the commits.
      nth integer,
      hash text not null
    );
    create table ${s}.effect (
      at bigint primary key generated always as identity,
      id uuid not null,
      topic text not null,
      key text,
      hash text not null,
      attempt integer not null,
      worker integer
    );`,

  drop: `drop schema if exists ${s} cascade`,

  // Locks the repository until the end of the transaction: events of one repository are counted as they commit.
  advance: prepared(
    { name: text },
    `insert into ${s}.repository as r (name, events) values ($name, 1)
    on conflict (name) do update set events = r.events + 1
    returning events`,
  ).gives<{ readonly events: number }>(),

  record: prepared(
    { id: uuid, topic: text, key: optional(text), nth: optional(int), hash: text },
    `insert into ${s}.ledger (id, topic, key, nth, hash) values ($id, $topic, $key, $nth, $hash)`,
  ),

  effect: prepared(
    { id: uuid, topic: text, key: optional(text), hash: text, attempt: int, worker: optional(int) },
    `insert into ${s}.effect (id, topic, key, hash, attempt, worker) values ($id, $topic, $key, $hash, $attempt, $worker)`,
  ),

  progress: prepared(
    {},
    `select (select count(*) from ${s}.ledger) as published, (select count(*) from ${s}.effect) as handled`,
  ).gives<{ readonly published: number; readonly handled: number }>(),

  // What a claimer has claimed and not settled.
  held: prepared(
    { worker: int },
    `select i.id from ${s}.inbox as i
    join ${s}.lane as l on l.consumer = i.consumer and l.lane = i.lane
    where i.lane < ${layout.lanes} and l.holder = $worker and i.seq <= l.reach
    union all
    select id from ${s}.inbox where lane >= ${layout.lanes} and holder = $worker`,
  ).gives<{ readonly id: string }>(),

  left: prepared(
    {},
    `select
      (select count(*) from ${s}.outbox) as outbox,
      (select count(*) from ${s}.inbox) as inbox,
      (select count(*) from ${s}.deferred) as deferred,
      (select count(*) from ${s}.parked_message) as parked,
      (select count(*) from ${s}.dead_letter) as dead_letters,
      (select reason from ${s}.dead_letter order by number desc limit 1) as reason`,
  ).gives<Left>(),

  verdict: prepared(
    {},
    `select (select count(*) from ${s}.ledger) as published, (select count(distinct id) from ${s}.effect) as handled,
      ${breachCounts({ ledger: `${s}.ledger`, effects: `${s}.effect`, nth: 'nth', same: ['topic', 'key', 'hash'] })}`,
  ).gives<Readonly<Record<Rule | 'published' | 'handled', number>>>(),
}))
