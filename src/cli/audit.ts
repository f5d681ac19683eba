import { readAudit, type AuditEntry } from '../operate/audit.ts'
import { say, sayTable } from '../terminal/output.ts'
import { short } from '../terminal/table.ts'
import { consumerOf, type FilterFlags } from './letters.ts'
import { readSettings } from './settings.ts'

/** Prints what operators did. */
export async function showAudit(flags: FilterFlags): Promise<void> {
  const { schema, database } = await readSettings(flags)
  const entries = await readAudit(database(), {
    ...{ schema, consumer: consumerOf(flags), key: flags.key, limit: flags.limit },
  })
  if (flags.json === true) return void say(JSON.stringify({ schema, entries }))
  if (entries.length === 0) return void say('Nothing is written down.')
  sayTable(['at', 'did', 'by', 'login', 'of', 'topic', 'key', 'id', 'why'], entries.map(toCells), {
    drops: ['id', 'login', 'topic', 'of'],
    cuts: { by: 'middle', login: 'middle', of: 'middle', topic: 'middle', key: 'middle', why: 'end' },
  })
}

const toCells = ({ at, action, by, login, consumer, topic, key, id, why, reason }: AuditEntry): string[] => [
  ...[at.toISOString(), action, by, login, consumer ?? 'outbox', topic ?? '-', key ?? '-', id ?? '-'],
  short([why, reason].filter((text) => text !== null).join(': ')),
]
