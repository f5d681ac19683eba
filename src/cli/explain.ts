import { explainMessage } from '../status/explain.ts'
import type { CommonFlags } from '../terminal/flags.ts'
import { say } from '../terminal/output.ts'
import { consumerOf } from './letters.ts'
import { readSettings } from './settings.ts'

export interface ExplainFlags extends CommonFlags {
  readonly outbox?: boolean
  readonly all?: boolean
}

/** Says why a message is where it is, a sentence for each place. 1 if nothing is known of it. */
export async function explainOne(id: string, flags: ExplainFlags): Promise<0 | 1> {
  const { schema, database } = await readSettings(flags)
  const { all } = flags
  const told = await explainMessage(database(), id, { schema, consumer: consumerOf(flags), all })
  if (flags.json === true) say(JSON.stringify({ schema, ...told }))
  else for (const { sentence } of told.places) say(sentence)
  return told.known ? 0 : 1
}
