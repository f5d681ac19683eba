import { setTimeout as sleep } from 'node:timers/promises'
import { account, Crew as AnyCrew, type Member as AnyMember } from '../proof/stage/crew.ts'
import type { TwinboxEvent } from '../src/base/events.ts'
import type { Job, News, Order, Role } from './child.ts'
import { consumer } from './ledger.ts'
import type { Scratch } from './scratch.ts'

type Worker = Exclude<Role, 'burner' | 'distance' | 'entrant'>

export type Member = AnyMember<Role>

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

/** The processes of a scenario. One that is about to be hit, and is no surprise when it ends, is `stopping`. */
export class Crew extends AnyCrew<Role, Order, News> {
  /** What they have told, in the order of arrival. */
  seen: Seen[] = []
  stuck: Stuck[] = []
  readonly #scratch: Scratch
  readonly #looking = new Set<() => void>()
  /** What those say who are asked for more than what happens to them. */
  readonly #told = new Map<Member, (news: News) => void>()

  constructor(scratch: Scratch) {
    super(new URL('./child.js', import.meta.url))
    this.#scratch = scratch
    this.onNews = (member, news) => {
      if (news.type === 'seen' || news.type === 'stuck') this.#hear(member, news)
      else this.#told.get(member)?.(news)
    }
  }

  /** Starts a process that does this job; resolves once it works. */
  async employ(
    role: Role,
    job: Partial<Omit<Job, 'role'>> = {},
    onNews: (news: News) => void = () => {},
  ): Promise<Member> {
    const order: Order = { type: 'begin', job: { role, database: this.#scratch.url, ...job } }
    const member = await this.hire(role, role, order, {
      // Peers complain there, and go on.
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      // Typed arrays arrive as such; what is in flight is counted after a collection.
      serialization: 'advanced',
      execArgv: role === 'entrant' ? entrantFlags() : [],
    })
    this.#told.set(member, onNews)
    return member
  }

  /** Waits for the end of a member that was asked to stop. Returns whether it ended in good order. */
  async ended(member: Member): Promise<boolean> {
    await Promise.race([member.exited, sleep(30_000, null, { ref: false })])
    return member.process.exitCode === 0
  }

  /** All at once; what they say then is forgotten. */
  override async disband(): Promise<void> {
    await super.disband()
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
      account(member, event)
      this.seen.push({ at, member, event })
    }
    for (const look of this.#looking) look()
  }
}
