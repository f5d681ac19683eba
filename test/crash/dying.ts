import { writeSync } from 'node:fs'
import pg from 'pg'
import { noFailpoint, type Failpoint } from '../../src/base/failpoint.ts'

/**
 * Where a process dies: at a failpoint of ours, or `before` or `after` a statement, by its name. A COMMIT is named after
 * the last statement before it. After a statement that is repeated while nothing is there to do, only a time counts
 * that has found something.
 */
export interface Death {
  readonly point: string
  /** The how manieth time. */
  readonly hit?: number
  readonly signal?: 'SIGKILL' | 'SIGSTOP'
}

/** The pipe on which a process says where it dies: what it writes there outlives it. */
export const lastWords = 4

/** Lets this process die there. */
export function arm({ point, hit = 1, signal = 'SIGKILL' }: Death): Failpoint {
  let hits = 0
  const reach = (at: string): Promise<void> | undefined => {
    if (at !== point || ++hits < hit) return undefined
    writeSync(lastWords, at)
    // Not process.exit: nothing may be tidied up.
    process.kill(process.pid, signal)
    // The signal takes a moment, in which nothing may happen.
    return new Promise(() => {})
  }
  if (!/^(before|after) /.test(point)) return reach
  watchStatements(reach)
  return noFailpoint
}

interface Row {
  readonly lane?: number | null
  readonly count?: number
  readonly due?: boolean
}

function watchStatements(reach: (at: string) => Promise<void> | undefined): void {
  const last = new WeakMap<object, string>()
  // Called with the client as its `this`.
  // oxlint-disable-next-line typescript/unbound-method
  const original = pg.Client.prototype.query as (...args: unknown[]) => unknown
  async function watched(this: pg.Client, ...args: unknown[]): Promise<unknown> {
    const name = nameOf(args[0] as string | pg.QueryConfig, last.get(this))
    if (name !== undefined && !name.startsWith('commit')) last.set(this, name)
    await reach(`before ${name}`)
    const result = (await original.apply(this, args)) as pg.QueryResult<Row> | pg.QueryResult<Row>[]
    const { rows, rowCount } = [result].flat()[0]!
    // It is asked only of what is there, and returns what could not be moved.
    const isMove = name?.startsWith('parking.follow') === true
    if (isMove || (rows.length === 0 ? rowCount !== 0 : rows.some(isFound))) await reach(`after ${name}`)
    return result
  }
  pg.Client.prototype.query = function query(this: pg.Client, ...args: unknown[]): unknown {
    const isPlain = typeof args[0] === 'string' || !('submit' in (args[0] as object))
    // Pools call back instead of promising.
    if (!isPlain || typeof args.at(-1) === 'function') return original.apply(this, args)
    return watched.apply(this, args)
  } as typeof pg.Client.prototype.query
}

const completing = /^select "\w+"\.complete_(?:one|many)\(/

function nameOf(query: string | pg.QueryConfig, last: string | undefined): string | undefined {
  const { name, text } = typeof query === 'string' ? { name: undefined, text: query } : query
  if (text === 'commit') return `commit ${last}`
  if (completing.test(text)) return 'complete_and_commit'
  // What is pruned has no name, as each table has a plan of its own. The audit is pruned by a function.
  const pruned = /(?:delete from "\w+"\.(\w+) as t\s|"\w+"\.prune_(\w+)\()/.exec(text)
  const known = name ?? (pruned === null ? undefined : `prune_${pruned[1] ?? pruned[2]}`)
  // Without the schema.
  return known?.replace(/^[^.]*\./, '')
}

const isFound = ({ lane, count, due }: Row): boolean => lane !== null && count !== 0 && due !== false
