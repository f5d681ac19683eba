import { columnNames, type ColumnName, type FailedAttempt, type MessageRow } from '../../message/row.ts'
import { layout } from '../layout.ts'
import { listed, types } from './columns.ts'
import { columns, messageColumns, readable } from './statement.ts'

/** Where a message can be, by the table that holds it then. */
export const tableOf = {
  outbox: 'outbox',
  inbox: 'inbox',
  deferred: 'deferred',
  parked: 'parked_message',
  unhandled: 'unhandled',
  dead: 'dead_letter',
  handled: 'handled',
} as const
export type MessageState = keyof typeof tableOf
export type Holder = (typeof tableOf)[MessageState]

export const messageStates = Object.keys(tableOf) as [MessageState, ...MessageState[]]

/** A message where it is. */
export interface PlacedRow extends MessageRow {
  readonly state: MessageState
  readonly consumer: string
  readonly since: Date | null
  readonly due_at: Date | null
  readonly attempt: number
  readonly holder: number | null
  readonly reason: string | null
  readonly received_at: Date | null
  readonly errors: readonly FailedAttempt[] | null
}

/** The columns of such a row, of rows `alias`. */
export const shown = (alias: string, state: MessageState): string =>
  `'${state}' as state, ${readable(
    alias,
    `consumer, since, due_at, attempt, holder, reason, received_at, errors, ${messageColumns}`,
  )}`

const nobody = `null::timestamptz as due_at, null::int as holder, null::text as reason`
const running = (holder: string, leaseUntil: string): string =>
  `case when ${leaseUntil} > clock_timestamp() then ${holder} end`

/** What a row `m` of each table says of its message, content aside. Of the inbox, `h` is the row of its lane. */
export const placed = (s: string): Readonly<Record<MessageState, string>> => ({
  outbox: `''::text as consumer, m.seq as place, m.published_at as since, m.attempt, null::timestamptz as received_at, m.errors,
    ${nobody}`,
  inbox: `m.consumer, m.seq as place, m.received_at as since, m.attempt, m.received_at, m.errors, null::timestamptz as due_at,
    case when m.lane >= ${layout.lanes} then ${running('m.holder', 'm.lease_until')}
      when m.seq <= h.reach or m.seq = any (h.past) then ${running('h.holder', 'h.lease_until')} end as holder, null::text as reason`,
  deferred: `m.consumer, m.seq as place, coalesce(m.received_at, m.published_at) as since, m.attempt, m.received_at, m.errors,
    m.due_at, null::int as holder, null::text as reason`,
  // Each with when its key goes on, and why it does not yet.
  parked: `m.consumer, m.seq as place, m.received_at as since, m.attempt, m.received_at, m.errors,
    (select nullif(k.until, 'infinity') from ${s}.parked as k
      where (k.consumer, k.lane, k.key) = (m.consumer, m.lane, m.key)) as due_at, null::int as holder,
    (select k.reason from ${s}.parked as k where (k.consumer, k.lane, k.key) = (m.consumer, m.lane, m.key)) as reason`,
  unhandled: `m.consumer, m.seq as place, m.received_at as since, m.attempt, m.received_at, m.errors,
    null::timestamptz as due_at, null::int as holder, 'No claimer with a handler for it has taken it.' as reason`,
  dead: `m.consumer, m.number as place, m.died_at as since, m.attempt, m.received_at, m.errors,
    null::timestamptz as due_at, null::int as holder, m.reason`,
  handled: `m.consumer, m.number as place, m.handled_at as since, m.attempt, m.received_at, null::jsonb as errors,
    null::timestamptz as due_at, m.worker as holder, null::text as reason`,
})

/** What `handled` keeps of a message. */
const handled = new Set<ColumnName>(['id', 'topic', 'key', 'published_at'])

/** What its message is; the payload only if `condition` holds. */
export function contentOf(state: MessageState, condition: string | null): string {
  if (state === 'handled')
    return listed(columnNames, (name, type) =>
      handled.has(name) ? `m.${name}` : `null::${types[type]} as ${name}`,
    )
  if (condition === null) return columns('m')
  return (
    columns('m', messageColumns.replace(', payload, body', '')) +
    `, case when ${condition} then m.payload end as payload, case when ${condition} then m.body end as body`
  )
}
