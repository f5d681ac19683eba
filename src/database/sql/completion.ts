import { begin, commit, isHere, serverIdentity } from './server.ts'
import {
  arrayText,
  asText,
  bigints,
  int,
  ints,
  like,
  optional,
  smallints,
  text,
  uuids,
  type Parameter,
} from './parameter.ts'
import { fencedClaim, joinedBy, perSchema, prepared, quoted, type Place } from './statement.ts'

/** The SQLSTATE with which `complete` refuses what is no longer held. */
export const claimLost = 'TWX01'

/** A claim as its completion names it. */
export interface Completed {
  readonly lane: number
  readonly seq: number
  readonly fence: number
  readonly id: string
  readonly attempt: number
}

/** In psql nothing is held, and a completion of nothing does not raise. */
const none = <Value>(parameter: Parameter<Value>): Parameter<Value> => like(asText(parameter), "'{}'")

/** How messages that were handled leave the inbox. */
export const completionSql = perSchema('completion', (s) => {
  // What was handled beside the database counts on the server on which it was claimed (`$server`) and on no other: one that was
  // restored from a dump has the claim as well, and not what its handler has written.
  const fenced = `${fencedClaim(s)} and ${isHere(s)}`
  return {
    complete: prepared(
      { consumer: text, lanes: smallints, seqs: bigints, fences: bigints, ids: uuids, server: text },
      `delete from ${s}.inbox as i
      using unnest($lanes, $seqs, $fences, $ids) as a(lane, seq, fence, id)
      where ${fenced}
      returning i.lane, i.seq`,
    ).gives<Place>(),

    // The same, with a history.
    completeAndKeep: prepared(
      {
        consumer: text,
        lanes: smallints,
        seqs: bigints,
        fences: bigints,
        ids: uuids,
        server: text,
        attempts: ints,
        worker: int,
      },
      `with gone as (
        delete from ${s}.inbox as i
        using unnest($lanes, $seqs, $fences, $ids, $attempts)
          as a(lane, seq, fence, id, attempt)
        where ${fenced}
        returning i.lane, i.seq, i.id, i.topic, i.key, i.received_at, i.published_at, a.attempt
      ),
      kept as (
        insert into ${s}.handled (consumer, id, topic, key, received_at, published_at, attempt, worker)
        select $consumer, id, topic, key, received_at, published_at, attempt, $worker from gone
      )
      select lane, seq from gone`,
    ).gives<Place>(),

    // The same as the last statement of a transaction that a data library has begun and will commit. Between the two, its
    // process may freeze or be cut off, and whoever has its lane by then waits at this row for the transaction to end: so the server
    // ends it if nothing comes after `$idle`. Who comes second finds no row, and what it has written is rolled back.
    completeWithin: prepared(
      {
        ...{ idle: like(text, "'5000ms'"), consumer: text, lanes: none(smallints), seqs: none(bigints) },
        ...{ fences: none(bigints), ids: none(uuids), attempts: none(smallints) },
        ...{ worker: asText(optional(int)), server: like(text, serverIdentity(s)) },
      },
      `select pg_catalog.set_config('idle_in_transaction_session_timeout', $idle, true) as idle,
        ${s}.complete_many($consumer, $lanes, $seqs, $fences, $ids, $attempts, $worker, $server)::text as done`,
    ),

    // Which of these are there still. It waits for a transaction that is just about to commit.
    left: prepared(
      { consumer: text, lanes: smallints, seqs: bigints, ids: uuids },
      `select i.lane, i.seq from unnest($lanes, $seqs, $ids) as a(lane, seq, id)
      join ${s}.inbox as i on i.consumer = ${joinedBy('a', '$consumer')} and i.lane = a.lane and i.seq = a.seq and i.id = a.id
      for no key update of i`,
    ).gives<Place>(),

    // The end of a handler's transaction: completion and COMMIT in one message, so that nothing comes between them, no
    // freeze and no cut. If a claim was lost, the completion raises, and what follows it is not carried out. A message of
    // several statements has no parameters. Where the next transaction is begun with it, now() is there the time at which
    // this message arrived. Not COMMIT AND CHAIN, which would hand on the isolation level that a handler has set.
    completeAndCommit: (
      consumer: string,
      claims: readonly Completed[],
      worker: number | null,
      server: string,
      goOn = false,
    ): string => {
      // Texts without a type, which the function's decides: a number would be no smallint.
      const given = ({ lane, seq, fence, id }: Completed): string =>
        `'${lane}', '${seq}', '${fence}', '${id}'`
      const list = (field: keyof Completed): string => `'${arrayText(claims.map((claim) => claim[field]))}'`
      const lists = (): string => (['lane', 'seq', 'fence', 'id', 'attempt'] as const).map(list).join(', ')
      const complete =
        claims.length === 1 && worker === null
          ? `complete_one(${quoted(consumer)}, ${given(claims[0]!)}`
          : `complete_many(${quoted(consumer)}, ${lists()}, ${worker ?? 'null'}`
      return `select ${s}.${complete}, ${quoted(server)}); ${commit}${goOn ? `; ${begin}` : ''}`
    },
  }
})
