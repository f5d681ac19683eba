import type { AuditAction, AuditRow } from '../../message/row.ts'
import { int, optional, text, uuid } from './parameter.ts'
import { perSchema, planned, readable } from './statement.ts'

export interface AuditListRow extends AuditRow<AuditAction> {
  readonly consumer: string
  readonly topic: string | null
  readonly key: string | null
  readonly id: string | null
}

/** Who and why: of every statement that writes down what an operator did. */
export const signing = { who: text, why: optional(text) }

/** What a row says of a change to what is no message. All are SQL over the rows of `from`. */
interface Noted {
  readonly from: string
  /** @default none: the outbox, or all */
  readonly consumer?: string
  readonly topic?: string
  /** What was changed, in words. */
  readonly what: string
}

/** Writes down a change to what is no message, within the statement that makes it: neither is without the other. */
export const noting = (s: string, action: AuditAction, { from, consumer, topic, what }: Noted): string =>
  `insert into ${s}.audit (action, who, why, consumer, topic, reason)
      select '${action}', $who, $why, ${consumer ?? "''"}, ${topic ?? 'null'}, ${what} from ${from}`

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
