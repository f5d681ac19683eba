import type pg from 'pg'
import type { Entrant, Task } from './entrant.ts'
import { message, share } from './messages.ts'
import type { Sheet } from './tally.ts'

/** What was dealt with is what was committed: each message once, and those of a key in order. Else what is wrong. */
export function audit(sheets: readonly Sheet[], task: Task): string[] {
  const times = new Uint8Array(task.messages)
  let strange = 0
  for (const { ns } of sheets) {
    for (const n of ns) {
      if (n >= 0 && n < task.messages) times[n]!++
      else strange++
    }
  }
  let lost = 0
  let twice = 0
  for (const count of times) {
    if (count === 0) lost++
    else if (count > 1) twice++
  }
  const disorder = task.keys === 'none' ? 0 : inversions(sheets, task)
  return [
    ...(lost > 0 && task.upTo === undefined ? [`${lost} messages were not dealt with`] : []),
    ...(twice > 0 ? [`${twice} messages were dealt with more than once`] : []),
    ...(strange > 0 ? [`${strange} messages were never there`] : []),
    ...(disorder > 0 ? [`${disorder} messages came after a later one of their key`] : []),
  ]
}

function inversions(sheets: readonly Sheet[], task: Task): number {
  const all = sheets
    .flatMap(({ ns, ats }) => [...ns].map((n, index) => [n, ats[index]!] as const))
    .toSorted(([, a], [, b]) => a - b)
  const last = new Map<string, number>()
  let count = 0
  for (const [n] of all) {
    const { key } = message(n, task)
    if (key === null) continue
    if (n < (last.get(key) ?? -1)) count++
    last.set(key, n)
  }
  return count
}

/** The same by the tables: what a publisher has written, what handlers have inserted. */
export async function auditWritten(client: pg.Client, entrant: Entrant, task: Task): Promise<string[]> {
  const problems: string[] = []
  if (task.handler === 'insert' || task.handler === 'insert-many') {
    const { rows } = await client.query<{ all: number; distinct: number }>(
      'select count(*)::int as all, count(distinct n)::int as distinct from effect',
    )
    const { all, distinct } = rows[0]!
    if (all !== task.messages || distinct !== task.messages)
      problems.push(`${all} effects, of ${distinct} messages`)
  }
  if (entrant.written !== undefined) {
    const { rows } = await client.query<{ n: number }>(entrant.written)
    const ns = new Set(rows.map(({ n }) => n))
    if (rows.length !== task.messages || ns.size !== task.messages)
      problems.push(`${rows.length} rows were written, of ${ns.size} messages`)
    // With one connection per process, what it publishes has an order.
    if (entrant.keepsOrder === true && task.concurrency === 1 && !inOrder(rows, task))
      problems.push('the rows are out of order')
  }
  return problems
}

function inOrder(rows: readonly { readonly n: number }[], task: Task): boolean {
  for (let process = 0; process < task.processes; process++) {
    const { from, to } = share(task, process)
    let last = -1
    for (const { n } of rows) {
      if (n < from || n >= to) continue
      if (n < last) return false
      last = n
    }
  }
  return true
}

/** Of a lap that ends early: what was not dealt with is still there. */
export async function auditRest(
  client: pg.Client,
  entrant: Entrant,
  task: Task,
  sheets: readonly Sheet[],
): Promise<string[]> {
  const done = sheets.reduce((sum, { ns }) => sum + ns.length, 0)
  const { rows } = await client.query<{ left: number }>(entrant.left!)
  const { left } = rows[0]!
  return left === task.messages - done
    ? []
    : [`${done} were dealt with, but ${left} of ${task.messages} are left`]
}
