import type pg from 'pg'
import { firstOf, type CheckName } from '../sql/rules.ts'
import { soakSql, type Counts } from '../sql/soak.ts'
import type { Database } from '../../src/database/database.ts'
import { maxAttempts } from './message.ts'
import { readHistories } from './history.ts'

/** What breaks one rule. */
export interface Violation {
  readonly rule: CheckName
  readonly id: string | null
  readonly why: string
  /** All that is known of the message, in the order in which it happened. */
  readonly life: readonly string[]
}

export interface Findings {
  readonly counts: Counts
  /** How many break each rule. */
  readonly broken: Readonly<Record<CheckName, number>>
  /** The first of each. */
  readonly violations: readonly Violation[]
  readonly recovery: readonly { readonly kind: string; readonly ms: number | null }[]
  readonly seconds: number
}

const chunk = 20_000
/** In microseconds: so late a process may say what it has done, if it was frozen in between. */
const saidWithin = 15_000_000
const livesMax = 10

/**
 * Holds what was committed and what the processes said of themselves against the rules.
 *
 * What the database knows is written by the transactions that it is about; what only a publisher knows, the moment
 * before its transaction began and the moment when it knew of the commit, comes from the histories, which survive SIGKILL.
 */
export async function check(database: Database, histories: string): Promise<Findings> {
  const startedAt = performance.now()
  const { schema } = database
  const sql = soakSql(schema)
  const client = await database.pool.connect()
  try {
    await load(database, client, histories)
    await client.query(sql.prepare)
    const broken = {} as Record<CheckName, number>
    const violations: Violation[] = []
    for (const [rule, text] of Object.entries(sql.checks) as [CheckName, string][]) {
      const { rows } = await client.query<{ count: number; id: string | null; why: string }>(
        firstOf(text),
        text.includes('$1') ? [maxAttempts] : [],
      )
      broken[rule] = rows[0]?.count ?? 0
      for (const { id, why } of rows) {
        const life =
          id === null || violations.length >= livesMax ? [] : await lifeOf(client, schema, id, histories)
        violations.push({ rule, id, why, life })
      }
    }
    const [counts] = (await client.query<Counts & pg.QueryResultRow>(sql.counts.text)).rows
    const { rows: recovery } = await client.query<{ kind: string; ms: number | null }>(sql.recovery.text)
    const seconds = Math.round((performance.now() - startedAt) / 100) / 10
    return { counts: counts!, broken, violations, recovery, seconds }
  } finally {
    // Its planner settings are its own.
    client.release(true)
  }
}

/** What only the processes know, into tables. */
async function load(database: Database, client: pg.PoolClient, folder: string): Promise<void> {
  const sql = soakSql(database.schema)
  let attempts: [string[], string[], string[], string[], string[]] = [[], [], [], [], []]
  let reported: [ids: string[], ats: string[]] = [[], []]
  let away: [processes: string[], ids: string[], attempts: string[], ats: string[]] = [[], [], [], []]
  const flush = async (): Promise<void> => {
    if (attempts[0].length > 0) await client.query(sql.attempts.text, attempts)
    if (reported[0].length > 0) await client.query(sql.reported.text, reported)
    if (away[0].length > 0) await client.query(sql.away.text, away)
    attempts = [[], [], [], [], []]
    reported = [[], []]
    away = [[], [], [], []]
  }
  // Those whose end is in no history died before it: their commit is open.
  const open = new Map<string, readonly [count: string, begun: string]>()
  const outcomes = ['ok', 'fail', 'info']
  const wanted = ['publish', 'commit', 'handled', 'away', 'sequence_mended', 'restore', ...outcomes]
  const restores: { from: number; to: number }[] = []
  const mended: { at: number; box: string; to: number }[] = []
  for await (const { by, fields } of readHistories(folder, (line) =>
    wanted.includes(line.split('\t', 2)[1]!),
  )) {
    const [at, word, first, second, third] = fields as [string, string, string, string, string]
    if (word === 'publish') open.set(first, ['0', third])
    else if (word === 'commit') open.set(first, [second, open.get(first)?.[1] ?? at])
    else if (word === 'sequence_mended') mended.push({ at: Number(at), box: first, to: Number(third) })
    else if (word === 'restore') restores.push({ from: Number(first), to: Number(second) })
    else if (word === 'away')
      for (const [index, value] of [by, first, second, at].entries()) away[index]!.push(value)
    else if (word === 'handled') {
      for (const id of second.split(',')) {
        reported[0].push(id)
        reported[1].push(at)
      }
    } else {
      open.delete(first)
      for (const [index, value] of [first, word, second, third, at].entries()) attempts[index]!.push(value)
    }
    if ([reported, attempts, away].some(([column]) => column.length >= chunk)) await flush()
  }
  for (const [tx, [count, begun]] of open) {
    for (const [index, value] of [tx, 'info', count, begun, begun].entries()) attempts[index]!.push(value)
  }
  await flush()
  for (const restore of restores) {
    await client.query(sql.taken_back.text, sql.taken_back.bind(restore))
    await client.query(sql.unsaid.text, sql.unsaid.bind({ ...restore, to: restore.to + saidWithin }))
  }
  if (restores.length > 0) {
    const ids = await begunAround(folder, restores)
    await client.query(sql.outlived.text, sql.outlived.bind({ ids }))
  }
  const isGone = (at: number): boolean => restores.some(({ from, to }) => at > from && at < to)
  for (const { at, box, to } of mended.filter((one) => !isGone(one.at)).toSorted((a, b) => a.at - b.at))
    await client.query(sql.mended.text, sql.mended.bind({ box, to, at }))
}

/** What handlers had begun before a restore, or a moment after it, when they did not know of it yet. */
async function begunAround(
  folder: string,
  restores: readonly { readonly from: number; readonly to: number }[],
): Promise<string[]> {
  const begun: string[] = []
  const lines = readHistories(folder, (line) => line.split('\t', 2)[1] === 'handle')
  for await (const { fields } of lines) {
    const [at, , , ids] = fields as [string, string, string, string]
    const near = restores.some(({ from, to }) => Number(at) > from && Number(at) < to + saidWithin)
    if (near) begun.push(...ids.split(','))
  }
  return begun
}

async function lifeOf(client: pg.PoolClient, schema: string, id: string, folder: string): Promise<string[]> {
  const sql = soakSql(schema)
  const { rows } = await client.query<{ at: Date | null; what: string }>(
    sql.life_of.text,
    sql.life_of.bind({ id }),
  )
  const life = rows.map(({ at, what }) => `${at?.toISOString() ?? '-'} ${what}`)
  const tx = /"tx":(\d+)/.exec(life.join('\n'))?.[1]
  const about = (line: string): boolean =>
    line.includes(id) || (tx !== undefined && line.includes(`\t${tx}\t`))
  for await (const { by, fields } of readHistories(folder, about)) {
    const [at, word, ...rest] = fields
    // Of the others that were in the same batch, only how many.
    const said = rest.map((field) =>
      field.length > 80 ? `${id} and ${field.split(',').length - 1} others` : field,
    )
    life.push(`${at} µs ${by}: ${word} ${said.join(' ')}`)
  }
  return life
}
