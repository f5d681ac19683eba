import type { Emit } from '../base/events.ts'
import type { Database } from '../database/database.ts'
import { sequenceSql } from '../database/sql/sequence.ts'

/**
 * Sets sequences forward that have fallen behind their tables. A switch to a logical replica copies rows and not
 * sequences, and so may a restore. Until then, what is published may fail by a number that is still taken, and what is
 * not numbered twice goes before what is older. A worker that may not do it tells so, and works on.
 */
export async function mendSequences(database: Database, emit: Emit): Promise<void> {
  try {
    const mended = await database.query(sequenceSql(database.schema).mend)
    for (const { name, stood_at: from, set_to: to } of mended)
      emit({ type: 'sequence_mended', table: name, from, to })
  } catch (error) {
    emit({ type: 'trouble', error, doing: 'setting sequences forward' })
  }
}
