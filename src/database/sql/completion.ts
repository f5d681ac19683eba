import { begin, commit, isHere } from './server.ts'
import { arrayText, bigints, int, ints, smallints, text, uuids } from './parameter.ts'
import { fencedClaim, perSchema, prepared, quoted, type Place } from './statement.ts'

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
