import type { InboxMessage } from '../../src/database/inbox.ts'
import type { HeadRow } from '../../src/database/sql/reading.ts'
import { newMessageId, type OutgoingMessage } from '../../src/message/message.ts'
import {
  columnNames,
  fieldOf,
  type ColumnName,
  type FieldsOf,
  type MessageRow,
} from '../../src/message/row.ts'
import { toOutgoing } from '../../src/relay/sending.ts'

/** Messages for tests, made from the list of their columns: what a test does not say is null. */

const nulls = Object.fromEntries(columnNames.map((name) => [name, null])) as unknown as MessageRow
const nullFields = Object.fromEntries(
  columnNames.map((name) => [fieldOf(name), null]),
) as unknown as FieldsOf<ColumnName>

export const messageRow = (of: Partial<MessageRow> = {}): MessageRow => ({
  ...nulls,
  ...{ id: newMessageId(), topic: 't', payload: '1' },
  ...of,
})

/** As it goes into an inbox. */
export const inboxMessage = (fields: Partial<InboxMessage>): InboxMessage => ({
  ...nullFields,
  ...{ consumer: 'c', id: newMessageId(), topic: 't', payload: '1' },
  ...fields,
})

/** As a relay hands it to a broker. */
export const outgoing = (topic: string, fields: Partial<OutgoingMessage> = {}): OutgoingMessage => ({
  ...toOutgoing({ ...messageRow({ topic, payload: '{"total":1}' }), published_at: new Date() } as HeadRow),
  ...fields,
})
