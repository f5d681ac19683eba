import { fork, type ChildProcess } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TwinboxEvent } from '../src/events.ts'
import type { Job, News, Order, Role } from './child.ts'
import { consumer } from './ledger.ts'
import type { Scratch } from './scratch.ts'

type Worker = Exclude<Role, 'burner' | 'entrant'>

/** A child process and what is known of it. */
export interface Member {
  readonly role: Role
  readonly process: ChildProcess
  readonly exited: Promise<NodeJS.Signals | number>
  /** As in the table `worker`; a worker that was given up on comes back under another one. */
  workerId: number | null
  /** By its own word. */
  readonly lanes: Set<number>
  /** False as soon as its end is nothing to be surprised at. */
  wanted: boolean
}

export interface Seen {
  readonly at: number
  readonly member: Member
  readonly event: TwinboxEvent
}

export interface Stuck {
  readonly at: number
  readonly member: Member
  readonly id: string
  readonly again: boolean
}

/** `TWINBOX_BENCH_PROF` names a folder for CPU profiles of entrants. */
function entrantFlags(): string[] {
  const folder = process.env['TWINBOX_BENCH_PROF']
  return ['--expose-gc', ...(folder === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${folder}`])]
}

type Of<Type extends TwinboxEvent['type']> = Extract<TwinboxEvent, { type: Type }>

/** The processes of a scenario: started, listened to, and ended by their own ids. */
export class Crew {
  readonly members: Member[] = []
  /** Rejects when a member ends that should not have, or when somebody else says that it is of no use to go on. */
  readonly failed: Promise<never>
  /** What they have told, in the order of arrival. */
  seen: Seen[] = []
  stuck: Stuck[] = []
  readonly #scratch: Scratch
  readonly #looking = new Set<() => void>()
  readonly fail: (error: Error) => void

  constructor(scratch: Scratch) {
    this.#scratch = scratch
    let fail: (error: Error) => void = () => {}
    this.failed = new Promise<never>((_, reject) => (fail = reject))
    this.failed.catch(() => {})
    this.fail = fail
  }

  /** Starts a process; resolves once it works. */
  async hire(
    role: Role,
    job: Partial<Omit<Job, 'role'>> = {},
    onNews: (news: News) => void = () => {},
  ): Promise<Member> {
    const child = fork(new URL('./child.js', import.meta.url), [], {
      // Apart from our process group: a Ctrl-C reaches only the parent, which then ends them.
      detached: true,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      // Typed arrays arrive as such; what is in hand is counted after a collection.
      serialization: 'advanced',
      execArgv: role === 'entrant' ? entrantFlags() : [],
    })
    const exited = new Promise<NodeJS.Signals | number>((resolve) =>
      child.once('exit', (code, signal) => resolve(signal ?? code ?? -1)),
    )
    const member: Member = { role, process: child, exited, workerId: null, lanes: new Set(), wanted: true }
    this.members.push(member)
    const ready = new Promise<void>((resolve) => {
      child.on('message', (news: News) => {
        if (news.type === 'ready') {
          member.workerId = news.workerId
          resolve()
        } else if (news.type === 'seen' || news.type === 'stuck') this.#hear(member, news)
        else onNews(news)
      })
    })
    child.on('error', (error) => this.fail(error))
    child.once('exit', (code, how) => {
      this.members.splice(this.members.indexOf(member), 1)
      if (member.wanted) this.fail(new Error(`A ${role} ended by itself: ${how ?? code}.`))
    })
    this.tell(member, { type: 'begin', job: { role, database: this.#scratch.url, ...job } })
    await Promise.race([ready, this.failed])
    return member
  }

  tell(member: Member, order: Order): void {
    if (member.process.connected) member.process.send(order, () => {})
  }

  /** The wanted ones, the oldest first. */
  of(role: Role): Member[] {
    return this.members.filter((member) => member.wanted && member.role === role)
  }

  /** Ends a member at once, even one that is frozen. */
  async kill(member: Member): Promise<void> {
    member.wanted = false
    member.process.kill('SIGKILL')
    await member.exited
  }

  /** Waits for the end of a member that was asked to stop. Returns whether it ended in good order. */
  async ended(member: Member): Promise<boolean> {
    return (await Promise.race([member.exited, sleep(30_000, 'late', { ref: false })])) === 0
  }

  /** All at once; what they say then is forgotten. */
  async disband(): Promise<void> {
    await Promise.all([...this.members].map((member) => this.kill(member)))
    this.forget()
  }

  forget(): void {
    this.seen = []
    this.stuck = []
  }

  /** What was told of one type, by whom and when. */
  told<Type extends TwinboxEvent['type']>(type: Type): (Seen & { readonly event: Of<Type> })[] {
    return this.seen.filter((seen): seen is Seen & { event: Of<Type> } => seen.event.type === type)
  }

  /** Waits for what the members say. False if it was not to be within this time. */
  async until(holds: () => boolean, withinMs = 60_000): Promise<boolean> {
    if (holds()) return true
    let look = (): void => {}
    const heard = new Promise<true>((resolve) => {
      look = () => {
        if (holds()) resolve(true)
      }
    })
    this.#looking.add(look)
    const timer = new AbortController()
    try {
      return await Promise.race([heard, sleep(withinMs, false, { signal: timer.signal })])
    } finally {
      this.#looking.delete(look)
      timer.abort()
    }
  }

  /**
   * Resolves when the living, and nobody else, hold all lanes, each its share: by the database, and by their own word,
   * so that none of the events that led there is still to come.
   */
  async settled(): Promise<void> {
    for (const role of ['claimer', 'relay'] as const) await this.#settled(role)
  }

  async #settled(role: Worker): Promise<void> {
    const count = this.of(role).length
    if (count === 0) return
    const deadline = performance.now() + 120_000
    for (;;) {
      const shares = await this.#scratch.query<{ holder: number | null; lanes: number }>(
        'select holder, count(*)::int as lanes from twinbox.lane where consumer = $1 group by holder',
        [role === 'relay' ? '' : consumer],
      )
      const all = shares.reduce((sum, { lanes }) => sum + lanes, 0)
      const most = Math.ceil(all / count)
      const least = all - most * (count - 1)
      const held = new Map(shares.map(({ holder, lanes }) => [holder, lanes]))
      const fair = this.of(role).every(({ workerId, lanes }) => {
        const share = held.get(workerId) ?? 0
        return share === lanes.size && share >= least && share <= most
      })
      if (all > 0 && fair && held.size === count) return
      if (performance.now() > deadline) {
        throw new Error(`The lanes were not shared within 120 s: ${JSON.stringify(shares)}`)
      }
      await sleep(20)
    }
  }

  #hear(member: Member, news: Extract<News, { type: 'seen' | 'stuck' }>): void {
    if (news.type === 'stuck') this.stuck.push({ ...news, member })
    else {
      const { at, event } = news
      member.workerId = event.workerId ?? member.workerId
      if (event.type === 'lanes_taken') for (const lane of event.lanes) member.lanes.add(lane)
      else if (event.type === 'lanes_released' || event.type === 'lease_lost') {
        for (const lane of event.lanes) member.lanes.delete(lane)
      }
      this.seen.push({ at, member, event })
    }
    for (const look of this.#looking) look()
  }
}
