import type { WorkerKind } from '../../base/events.ts'
import { perSchema, planned } from './statement.ts'

const tables: Readonly<Record<WorkerKind, string | null>> = {
  relay: 'outbox',
  claimer: 'inbox',
  receiver: null,
}

/**
 * The sequence that numbers what a worker reads, as columns of a row: how far it has come, null if nobody may know, and
 * the file that it is in, which is another one after RESTART. Below what was read of its table, or below where it stood, a
 * sequence stands only if it has gone back. `kind` is an expression.
 */
export const numbering = (s: string, kind: string): string => {
  const cases = Object.entries(tables).flatMap(([of, table]) =>
    table === null ? [] : [`when '${of}' then pg_get_serial_sequence('${s}.${table}', 'seq')`],
  )
  return `(
      select pg_relation_filenode(q.name::regclass)::bigint as file,
        case when has_sequence_privilege(q.name, 'select') then coalesce(pg_sequence_last_value(q.name::regclass), 0) end as position
      from (select case ${kind} ${cases.join(' ')} end as name offset 0) as q
    )`
}

/** A sequence that had fallen behind its table, and was set forward. */
export interface Mended {
  readonly name: string
  readonly stood_at: number
  readonly set_to: number
}

export const sequenceSql = perSchema('sequence', (s) => ({
  mend: planned({}, `select name, stood_at, set_to from ${s}.mend_sequences()`).gives<Mended>(),
}))
