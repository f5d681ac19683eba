import { bigint, boolean, int, optional, smallint, text, texts, uuid } from './parameter.ts'
import type { MessageRow } from '../../message/row.ts'
import { contentOf, placed, shown, tableOf, type MessageState, type PlacedRow } from './placed.ts'
import { each as eachOf, everyConsumer, everyLane, instant, perSchema, planned } from './statement.ts'

/** Headers and payload of a message where it is. */
export type ContentRow = Pick<MessageRow, 'headers' | 'payload' | 'body' | 'content_type'>

/** Where a message stands, as far as its table has an index for it. */
const standing = {
  consumer: text,
  lane: optional(smallint),
  key: optional(text),
  topic: text,
  place: bigint,
  id: uuid,
}
const inLane = 'm.consumer = $consumer and m.lane = $lane'
const at = {
  outbox: 'm.lane = $lane and m.seq = $place',
  inbox: `${inLane} and m.seq = $place`,
  deferred: 'm.consumer = $consumer and m.seq = $place',
  parked: `${inLane} and m.key = $key and m.seq = $place`,
  unhandled: `${inLane} and m.topic = $topic and m.seq = $place`,
  dead: 'm.number = $place',
} as const satisfies Partial<Record<MessageState, string>>
const statesWithContent = Object.keys(at) as (keyof typeof at)[]

/**
 * Where messages are, for operators. Of each table `$look` rows are looked at, and of each state `$limit` messages are told.
 * Consumer ('' the outbox), topic, key and id are null if they do not matter.
 */
export const messageSql = perSchema('message', (s) => {
  const wanted = `($consumer is null or m.consumer = $consumer) and ($topic is null or m.topic = $topic)
    and ($key is null or m.key = $key) and ($id is null or m.id = $id)`
  const select = (state: MessageState): string => `${placed(s)[state]}, ${contentOf(state, '$payload')}`
  const branch = (state: MessageState, rows: string): string => `(
    select ${shown('m', state)} from (${rows}) as m
    where '${state}' = any ($states) and ${wanted}
    order by m.consumer, m.place limit $limit)`
  // With a key only its lane.
  const lanes = (state: MessageState, where: string, consumers: string): string => `
    select m.* from ${consumers} as c cross join ${everyLane}
    left join ${s}.lane as h on h.consumer = c.consumer and h.lane = l.lane
    cross join lateral (
      select ${select(state)} from ${s}.${tableOf[state]} as m
      where ${where} m.lane = l.lane order by m.seq limit $look
    ) as m
    where ($consumer is null or c.consumer = $consumer)
      and ($key is null or l.lane = ${s}.lane_of($key)) limit $look`
  const each = (state: MessageState): string => `
    select ${select(state)} from ${s}.${tableOf[state]} as m
    where ($consumer is null or m.consumer = $consumer) and ($id is null or m.id = $id) limit $look`

  return {
    find: planned(
      {
        states: texts,
        consumer: optional(text),
        topic: optional(text),
        key: optional(text),
        id: optional(uuid),
        look: int,
        limit: int,
        payload: boolean,
      },
      [
        branch('outbox', lanes('outbox', '', `(select '' as consumer)`)),
        branch('inbox', lanes('inbox', 'm.consumer = c.consumer and', everyConsumer(s))),
        ...(['deferred', 'parked', 'unhandled', 'dead', 'handled'] as const).map((state) =>
          branch(state, each(state)),
        ),
      ].join(' union all '),
    ).gives<PlacedRow>(),

    /** What a reader may not see. */
    content: eachOf(statesWithContent, (state) => {
      const named = Object.entries(standing).filter(([name]) => `${at[state]} $id`.includes(`$${name}`))
      return planned(
        Object.fromEntries(named) as typeof standing,
        `select m.headers, m.payload, m.body, m.content_type from ${s}.${tableOf[state]} as m where ${at[state]} and m.id = $id`,
      ).gives<ContentRow>()
    }),

    /** Who has received it inside the dedupe window. $states id. */
    seen: planned(
      { id: uuid },
      `select c.consumer, ${instant('k.seen_at')} as seen_at
      from (select distinct consumer from ${s}.lane where consumer <> '') as c
      join ${s}.seen as k on k.consumer = c.consumer and k.id = $id
      order by c.consumer`,
    ).gives<{ readonly consumer: string; readonly seen_at: Date }>(),
  }
})
