import type { DatabaseInput } from '../database/database.ts'
import { auditSql } from '../database/sql/audit.ts'
import type { AuditAction } from '../message/row.ts'
import { refuseUnknown, whole } from '../base/options.ts'
import { consumerColumn, textOrNull } from './filter.ts'
import { toHistory, type Intervention } from './letter.ts'
import { withTables } from './tables.ts'

/** What an operator did, and to what. */
export interface AuditEntry extends Intervention<AuditAction> {
  /** Null for the outbox, for what was done to all, and for a schedule. */
  readonly consumer: string | null
  /** Of a subscription its pattern. */
  readonly topic: string | null
  readonly key: string | null
  /** Of the message. */
  readonly id: string | null
}

export interface ReadAuditOptions {
  /** Where the tables are. @default 'twinbox' */
  readonly schema?: string | undefined
  /** Only what was done to this consumer; null for the outbox, and what was done to all. @default all */
  readonly consumer?: string | null | undefined
  /** Only what was done to this key. @default all */
  readonly key?: string | undefined
  /** Most that are read, up to 1000. @default 100 */
  readonly limit?: number | undefined
}

/**
 * Reads what operators did, the latest first: redrives, skips, prunes and erasures, workers that they evicted, schedules that they
 * set, removed, paused or resumed, subscriptions that they ended; who they said they were and who was logged in.
 *
 * @throws OptionError, SchemaError, or the database's error
 */
export async function readAudit(input: DatabaseInput, options: ReadAuditOptions = {}): Promise<AuditEntry[]> {
  refuseUnknown('readAudit', options, ['schema', 'consumer', 'key', 'limit'])
  const values = {
    consumer: consumerColumn(options.consumer),
    key: textOrNull('key', options.key),
    limit: whole('limit', options.limit, 100, 1, 1000),
  }
  return withTables(input, options.schema, async (database) => {
    const rows = await database.query(auditSql(database.schema).list, values)
    return rows.map((row) => ({
      ...{ consumer: row.consumer || null, topic: row.topic, key: row.key, id: row.id },
      ...toHistory(row),
    }))
  })
}
