import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { News, Order } from '../child.ts'
import type { Member } from '../crew.ts'
import { now, spread, total, type Spread } from '../figures.ts'
import type { Stage } from '../scenario.ts'
import { audit, auditRest, auditWritten } from './audit.ts'
import { findEntrant } from '../entrants/registry.ts'
import type { Entrant, Task } from './entrant.ts'
import type { Ground, Grounds } from './grounds.ts'
import { Meter, type Counts } from './meter.ts'
import type { Sheet } from './tally.ts'

/** Who runs, and what. */
export interface Runner {
  /** As it is called in tables and in `rates`. */
  readonly name: string
  /** As in `findEntrant`. */
  readonly entrant: string
  readonly task: Task
}

/**
 * What one lap came to. All but `rate` and `took` is per message. It begins when everybody works, since starting is done once
 * and handling for years; where messages come meanwhile, with the first of them. Commits, tuples and buffers are of all of it.
 */
export interface Lap extends Counts {
  /** Messages per second. */
  readonly rate: number
  /** Messages per second of processor time, of the clients and of the server together. Null if that is unknown. */
  readonly perCpuS: number | null
  readonly clientUs: number
  readonly serverUs: number | null
  readonly walBytes: number
  /** Milliseconds that each message took: of a publish the call, of the rest from the beginning or from its publish. */
  readonly took: Spread
  readonly problems: readonly string[]
  /** Commits in other databases of the server meanwhile. */
  readonly others: number
  /** What a scenario measures beside all that. */
  readonly extra: Readonly<Record<string, number>>
}

/** What processes have used since they started, and what they have in memory now and had at most. */
export interface Used {
  readonly cpuMs: number
  /** Of JavaScript. */
  readonly memoryBytes: number
  readonly rssBytes: number
  readonly peakBytes: number
}

/** What a scenario can do in the course of a lap, and what it makes of the sheets. */
export interface LapHooks {
  /** Before the entrants start. What it returns undoes it when they have ended, and says what was wrong. */
  readonly around?: (ground: Ground) => Promise<() => Promise<readonly string[]>>
  readonly extra?: (sheets: readonly Sheet[], beganAt: number) => Record<string, number>
  /** The same of what the server has counted, per message. */
  readonly counted?: (counts: Counts) => Record<string, number>
  /** The same of what the entrants have used. */
  readonly used?: (used: Used) => Record<string, number>
  /** By which way the entrants reach their database. */
  readonly by?: (url: string) => string
}

const patienceMs = 600_000

/** The processes of one lap. */
export class Racers {
  readonly members: Member[] = []
  readonly #counts: number[] = []
  readonly #working = new Set<number>()
  readonly #sheets: Sheet[] = []
  #used: Used[] = []
  readonly #stage: Stage

  constructor(stage: Stage) {
    this.#stage = stage
  }

  /** @param url where they find their database */
  async hire({ entrant, task }: Runner, url: string): Promise<void> {
    const { crew } = this.#stage
    for (let process = 0; process < task.processes; process++) {
      this.#counts[process] = 0
      const race = { entrant, process, task }
      this.members.push(
        await crew.employ('entrant', { database: url, race }, (news) => this.#hear(process, news)),
      )
    }
  }

  get count(): number {
    return total(this.#counts)
  }

  tell(order: Extract<Order, { type: 'go' | 'account' | 'finish' }>): void {
    for (const member of this.members) this.#stage.crew.tell(member, order)
  }

  /** What they have used since they started, and what they have in memory: without its garbage, if it is weighed. */
  async account(weighs = false): Promise<Used> {
    this.#used = []
    this.tell({ type: 'account', weighs })
    await this.#until(() => this.#used.length === this.members.length, 30_000)
    const sum = (of: keyof Used): number => total(this.#used.map((used) => used[of]))
    return {
      cpuMs: sum('cpuMs'),
      memoryBytes: sum('memoryBytes'),
      rssBytes: sum('rssBytes'),
      peakBytes: sum('peakBytes'),
    }
  }

  async finish(): Promise<readonly Sheet[]> {
    for (const member of this.members) member.state = 'stopping'
    this.tell({ type: 'finish' })
    await this.#until(() => this.#sheets.filter(Boolean).length === this.members.length, 60_000)
    return this.#sheets.filter(Boolean)
  }

  /** Until so many messages have been dealt with. False if it took too long. */
  done(messages: number): Promise<boolean> {
    return this.#until(() => this.count >= messages, patienceMs)
  }

  /** Until all of them work, and the first message has been dealt with; or all of them have. */
  async underWay({ once }: Entrant, messages: number): Promise<void> {
    const works = (process: number): boolean =>
      this.#working.has(process) || (once === true && this.#counts[process]! > 0)
    const all = (): boolean => this.count > 0 && [...this.#counts.keys()].every(works)
    await this.#until(() => all() || this.count >= messages, patienceMs)
  }

  async dismiss(): Promise<void> {
    for (const member of this.members) member.state = 'stopping'
    if (process.env['TWINBOX_BENCH_PROF'] !== undefined) await sleep(2000)
    await Promise.all(this.members.map((member) => this.#stage.crew.kill(member)))
  }

  #hear(process: number, news: News): void {
    if (news.type === 'progress') this.#counts[process] = news.count
    else if (news.type === 'working') this.#working.add(process)
    else if (news.type === 'used') this.#used.push(news)
    else if (news.type === 'finished') this.#sheets[process] = news.sheet
  }

  async #until(holds: () => boolean, withinMs: number): Promise<boolean> {
    const deadline = performance.now() + withinMs
    while (!holds()) {
      if (performance.now() > deadline) return false
      await Promise.race([sleep(2), this.#stage.crew.failed])
    }
    return true
  }
}

/** Makes a database, lets the processes run until everything is done, and checks what they did. */
export async function runLap(
  stage: Stage,
  grounds: Grounds,
  runner: Runner,
  hooks: LapHooks = {},
): Promise<Lap> {
  const { task } = runner
  const entrant = await findEntrant(runner.entrant)
  const ground = await prepareGround(grounds, runner)
  const racers = new Racers(stage)
  const watcher = new pg.Client({ connectionString: ground.url, application_name: 'bench watcher' })
  watcher.on('error', () => {})
  await watcher.connect()
  let undo: (() => Promise<readonly string[]>) | undefined
  try {
    undo = await hooks.around?.(ground)
    await racers.hire(runner, hooks.by?.(ground.url) ?? ground.url)
    const meter = await Meter.start(stage.scratch, ground.name)
    const goAt = now()
    racers.tell({ type: 'go' })
    const wanted = task.upTo ?? task.messages
    const whole = wanted === task.messages
    const start = await started(racers, meter, entrant, { goAt, messages: wanted })
    const finished = (await racers.done(wanted)) && (!whole || (await isEmpty(watcher, entrant)))
    const cost = await meter.stop()
    const all = whole ? wanted : racers.count
    const used = await racers.account()
    const cpuMs = used.cpuMs - start.cpuMs
    const sheets = await racers.finish()
    const done = all - dealtWith(sheets, start.at)
    const problems = finished ? [] : [`${runner.name}: ${racers.count} of ${task.messages} were done in time`]
    await racers.dismiss()
    // The counts of a connection are there when it has gone. What the audit reads is none of them.
    await sleep(100)
    const counts = await meter.counts()
    const others = await meter.others()
    if (!whole) problems.push(...(await auditRest(watcher, entrant, task, sheets)))
    problems.push(...audit(sheets, task).map((problem) => `${runner.name}: ${problem}`))
    problems.push(
      ...(await auditWritten(watcher, entrant, task)).map((problem) => `${runner.name}: ${problem}`),
    )
    await watcher.end()
    problems.push(...((await undo?.()) ?? []).map((problem) => `${runner.name}: ${problem}`))
    undo = undefined
    const counted: Counts = {
      commits: counts.commits / all,
      tuples: counts.tuples / all,
      buffers: counts.buffers / all,
    }
    const each = (value: number): number => value / done
    const allCpuMs = cost.serverCpuMs === null ? null : cost.serverCpuMs + cpuMs
    return {
      rate: (done / cost.wallMs) * 1000,
      perCpuS: allCpuMs === null ? null : (done / allCpuMs) * 1000,
      clientUs: each(cpuMs * 1000),
      serverUs: cost.serverCpuMs === null ? null : each(cost.serverCpuMs * 1000),
      walBytes: each(cost.walBytes),
      ...counted,
      took: spread(latencies(sheets, start.at)),
      problems,
      others,
      extra: { ...hooks.extra?.(sheets, start.at), ...hooks.counted?.(counted), ...hooks.used?.(used) },
    }
  } finally {
    await watcher.end().catch(() => {})
    await racers.dismiss()
    await undo?.()
    await grounds.drop(ground)
  }
}

/** From when on a lap counts, and what its processes had used by then. */
async function started(
  racers: Racers,
  meter: Meter,
  entrant: Entrant,
  { goAt, messages }: { readonly goAt: number; readonly messages: number },
): Promise<{ readonly at: number; readonly cpuMs: number }> {
  const comeMeanwhile = entrant.left !== undefined && entrant.fill === undefined
  if (!comeMeanwhile) {
    await racers.underWay(entrant, messages)
    // In a short lap there would be nothing left to measure.
    if (racers.count < messages / 2) {
      const at = now()
      const [{ cpuMs }] = await Promise.all([racers.account(), meter.begin()])
      return { at, cpuMs }
    }
  }
  return { at: goAt, cpuMs: 0 }
}

const dealtWith = (sheets: readonly Sheet[], until: number): number =>
  total(sheets.map(({ ats }) => ats.reduce((sum, at) => (at < until ? sum + 1 : sum), 0)))

/** From its own beginning where a message has one, else from the beginning of the lap. */
export const latencies = (sheets: readonly Sheet[], beganAt: number): number[] =>
  sheets.flatMap(({ ats, took }) =>
    took.length > 0 ? [...took] : [...ats].map((at) => Math.max(0, at - beganAt)),
  )

/** A database with what the runner finds when it starts. */
export async function prepareGround(grounds: Grounds, runner: Runner): Promise<Ground> {
  const entrant = await findEntrant(runner.entrant)
  return grounds.fresh(preparedAs(runner), (url) => prepare(entrant, url, runner.task))
}

async function prepare(entrant: Entrant, url: string, task: Task): Promise<void> {
  await entrant.create(url, task)
  await entrant.fill?.(url, task)
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  await client.query('vacuum analyze')
  await client.end()
}

/** What a prepared database depends on. */
function preparedAs({ entrant, task }: Runner): string {
  const { messages, payload, keys, failures, keyCount, consumers } = task
  return JSON.stringify([entrant, messages, payload, keys, failures, keyCount, consumers])
}

async function isEmpty(watcher: pg.Client, { left }: Entrant): Promise<boolean> {
  if (left === undefined) return true
  const deadline = performance.now() + 60_000
  while (performance.now() < deadline) {
    const { rows } = await watcher.query<{ left: number }>(left)
    if (rows[0]!.left === 0) return true
    await sleep(5)
  }
  return false
}
