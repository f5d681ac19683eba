import type { AuditRow } from '../../message/row.ts'
import { int, optional, text, uuid } from './parameter.ts'
import { perSchema, planned, readable } from './statement.ts'

export interface AuditListRow extends AuditRow {
  readonly consumer: string
  readonly topic: string | null
  readonly key: string | null
  readonly id: string | null
}

const did = 'action, at, who, login, why, died_at, attempt, reason, errors'

/** What operators did. None is prepared by name, see operate.ts. Rows are added by the statements that do it. */
export const auditSql = perSchema('audit', (s) => ({
  /** With one message, at a consumer or at all; the first 1000. */
  ofMessage: planned(
    { id: uuid, consumer: optional(text) },
    `select a.consumer, ${readable('a', did)} from ${s}.audit as a
    where a.id = $id and ($consumer is null or a.consumer = $consumer) order by a.number limit 1000`,
  ).gives<AuditRow & { readonly consumer: string }>(),

  /** The latest first. */
  list: planned(
    { consumer: optional(text), key: optional(text), limit: int },
    `select a.consumer, a.topic, a.key, a.id, ${readable('a', did)} from ${s}.audit as a
    where ($consumer is null or a.consumer = $consumer) and ($key is null or a.key = $key)
    order by a.number desc limit $limit`,
  ).gives<AuditListRow>(),
}))
