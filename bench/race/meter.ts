import { readFileSync } from 'node:fs'
import type { Scratch } from '../scratch.ts'

/** What a lap has cost the server. */
export interface Cost {
  readonly wallMs: number
  /** Null where the server's processes cannot be seen from here. */
  readonly serverCpuMs: number | null
  readonly walBytes: number
}

/** What the database counts, which it tells only once its clients have gone. */
export interface Counts {
  readonly commits: number
  /** Versions of rows that were inserted, updated or deleted. */
  readonly tuples: number
  /** Pages that were looked at, in memory or not. */
  readonly buffers: number
}

interface Row {
  readonly pid: number
}

const lookMs = 50
const tickMs = 10

/**
 * Measures what a lap costs. The time of the server is that of the backends of one database and of the processes that
 * write for all: checkpointer, background writer, WAL writer. WAL is counted for the whole server, so anybody else who
 * writes there is counted too; `others` says how much they have done.
 */
export class Meter {
  readonly #scratch: Scratch
  readonly #database: string
  readonly #first = new Map<number, number>()
  readonly #last = new Map<number, number>()
  #timer: NodeJS.Timeout | null = null
  #looking: Promise<void> = Promise.resolve()
  #startedAt = 0
  #lsn = ''
  #others = 0
  #before: Counts = { commits: 0, tuples: 0, buffers: 0 }
  #visible = true

  private constructor(scratch: Scratch, database: string) {
    this.#scratch = scratch
    this.#database = database
  }

  static async start(scratch: Scratch, database: string): Promise<Meter> {
    const meter = new Meter(scratch, database)
    meter.#before = await meter.#counts()
    meter.#others = await meter.#otherCommits()
    meter.#timer = setInterval(() => {
      meter.#looking = meter.#looking.then(() => meter.#look())
    }, lookMs)
    await meter.begin()
    return meter
  }

  /** What was before this is no part of the cost. */
  async begin(): Promise<void> {
    this.#startedAt = performance.now()
    this.#lsn = await this.#position()
    await this.#look()
    for (const [pid, spent] of this.#last) this.#first.set(pid, spent)
  }

  async stop(): Promise<Cost> {
    const wallMs = performance.now() - this.#startedAt
    clearInterval(this.#timer!)
    const [row] = await this.#scratch.query<{ bytes: string }>(
      'select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)::text as bytes',
      [this.#lsn],
    )
    await this.#looking
    await this.#look()
    let spent = 0
    for (const [pid, ticks] of this.#last) spent += ticks - (this.#first.get(pid) ?? 0)
    return { wallMs, serverCpuMs: this.#visible ? spent * tickMs : null, walBytes: Number(row!.bytes) }
  }

  /** To be asked when the lap's clients have gone. */
  async counts(): Promise<Counts> {
    const { commits, tuples, buffers } = await this.#counts()
    const before = this.#before
    return {
      commits: commits - before.commits,
      tuples: tuples - before.tuples,
      buffers: buffers - before.buffers,
    }
  }

  /** Commits in other databases meanwhile: if they are many, WAL and times are not of the lap alone. */
  async others(): Promise<number> {
    return (await this.#otherCommits()) - this.#others
  }

  async #look(): Promise<void> {
    const rows = await this.#scratch.query<Row>(
      `select pid from pg_stat_activity where datname = $1
        or backend_type in ('checkpointer', 'background writer', 'walwriter')`,
      [this.#database],
    )
    for (const { pid } of rows) {
      const ticks = cpuTicks(pid)
      if (ticks !== null) this.#last.set(pid, ticks)
    }
    if (rows.length > 0 && this.#last.size === 0) this.#visible = false
  }

  async #position(): Promise<string> {
    const [row] = await this.#scratch.query<{ lsn: string }>(
      'select pg_current_wal_insert_lsn()::text as lsn',
    )
    return row!.lsn
  }

  async #counts(): Promise<Counts> {
    const [row] = await this.#scratch.query<{ commits: string; tuples: string; buffers: string }>(
      `select xact_commit::text as commits, (tup_inserted + tup_updated + tup_deleted)::text as tuples,
        (blks_hit + blks_read)::text as buffers
      from pg_stat_database where datname = $1`,
      [this.#database],
    )
    return {
      commits: Number(row?.commits ?? 0),
      tuples: Number(row?.tuples ?? 0),
      buffers: Number(row?.buffers ?? 0),
    }
  }

  async #otherCommits(): Promise<number> {
    const [row] = await this.#scratch.query<{ commits: string }>(
      `select coalesce(sum(xact_commit), 0)::text as commits from pg_stat_database
      where datname <> all (array[$1, current_database()])`,
      [this.#database],
    )
    return Number(row!.commits)
  }
}

/** User and system time of a process of Postgres, in ticks of 10 ms; null if it is not there or somebody else's. */
export function cpuTicks(pid: number): number | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const end = text.lastIndexOf(')')
    if (!text.slice(0, end).includes('(postgres')) return null
    const fields = text.slice(end + 2).split(' ')
    return Number(fields[11]) + Number(fields[12])
  } catch {
    return null
  }
}
