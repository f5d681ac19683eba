import { fork, type ChildProcess, type ForkOptions } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { TwinboxEvent } from '../../src/base/events.ts'

/** A child process of a command, and what is known of it. */
export interface Member<Role extends string> {
  readonly name: string
  readonly role: Role
  readonly process: ChildProcess
  /** As in the table `worker`; a worker that was given up on comes back under another one. */
  workerId: number | null
  /** Where it serves, if it is a server. */
  url: string | null
  state: 'starting' | 'working' | 'killed' | 'stopping' | 'ended'
  readonly lanes: Set<number>
  /** Messages sent, received or handled. */
  done: number
  claimed: number
  readonly exited: Promise<void>
}

/** What every child says once it works. */
export interface Ready {
  readonly type: 'ready'
  readonly workerId: number | null
  readonly url: string | null
}

/** How a child ended that nobody had told to. */
export interface Unexpected<Role extends string> {
  readonly member: Member<Role>
  /** A signal or an exit code, and what it wrote last. */
  readonly how: string
  readonly signal: NodeJS.Signals | null
}

const stopTimeoutMs = 20_000

/** The child processes of a command: started, listened to, and ended by their own ids. */
export class Crew<Role extends string, Order, News extends { readonly type: string }> {
  readonly members: Member<Role>[] = []
  /** Rejects when it is of no use to go on: by default, when a member ends that should not have. */
  readonly failed: Promise<never>
  onNews: (member: Member<Role>, news: News) => void = () => {}
  onUnexpected: (end: Unexpected<Role>) => void = ({ member, how }) =>
    this.fail(new Error(`The ${member.name} ended by itself (${how})`))
  readonly fail: (error: Error) => void
  readonly #program: URL

  /** @param program what the children run */
  constructor(program: URL) {
    this.#program = program
    let fail: (error: Error) => void = () => {}
    this.failed = new Promise<never>((_, reject) => (fail = reject))
    this.failed.catch(() => {})
    this.fail = fail
  }

  /** Starts a process; resolves once it works, or has ended. */
  async hire(
    name: string,
    role: Role,
    order: Order,
    { env = {}, ...how }: Pick<ForkOptions, 'env' | 'execArgv' | 'serialization' | 'stdio'> = {},
  ): Promise<Member<Role>> {
    const child = fork(this.#program, [], {
      // Apart from our process group: a Ctrl-C reaches only the parent, which then ends them in order.
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [],
      env: { ...process.env, ...env },
      ...how,
    })
    let complaint = ''
    child.stderr?.on('data', (text: Buffer) => (complaint = (complaint + text.toString()).slice(-2000)))
    // Not "close": after a disconnect it may never come.
    const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    const member: Member<Role> = {
      name,
      role,
      process: child,
      workerId: null,
      url: null,
      state: 'starting',
      lanes: new Set(),
      done: 0,
      claimed: 0,
      exited,
    }
    this.members.push(member)
    const ready = new Promise<void>((resolve) => {
      child.on('message', (news: News | Ready) => {
        if (news.type === 'ready') {
          const { workerId, url } = news as Ready
          member.workerId = workerId
          member.url = url
          if (member.state === 'starting') member.state = 'working'
          resolve()
        } else this.onNews(member, news as News)
      })
    })
    child.on('error', (error) => this.fail(new Error(`The ${name} could not be started: ${error.message}`)))
    child.once('exit', (code, signal) => {
      const expected = member.state === 'killed' || member.state === 'stopping'
      if (member.state !== 'killed') member.state = 'ended'
      if (expected) return
      // What it said last may still be in the pipe.
      setTimeout(() => {
        const why = complaint.trim() === '' ? '' : `: ${complaint.trim()}`
        this.onUnexpected({ member, how: `${signal ?? `exit code ${code}`}${why}`, signal })
      }, 100)
    })
    this.tell(member, order)
    // Time enough for an unexpected end to be told as such.
    await Promise.race([ready, exited.then(() => sleep(200)), this.failed])
    return member
  }

  tell(member: Member<Role>, order: Order): void {
    // A member that dies in this moment is noticed by its exit.
    if (member.process.connected) member.process.send(order as object, () => {})
  }

  of(role: Role): Member<Role>[] {
    return this.members.filter((member) => member.role === role && member.state === 'working')
  }

  /** As the machine's owner or its kernel would: no warning, no clean-up. */
  async kill(member: Member<Role>): Promise<void> {
    if (member.state !== 'ended') member.state = 'killed'
    member.process.kill('SIGKILL')
    await member.exited
  }

  /** Lets a member end in good order, after it was told this. Returns whether it did. */
  async dismiss(member: Member<Role>, order: Order): Promise<boolean> {
    if (member.state === 'killed' || member.state === 'ended') return true
    member.state = 'stopping'
    this.tell(member, order)
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<false>((resolve) => (timer = setTimeout(() => resolve(false), stopTimeoutMs)))
    const inTime = await Promise.race([member.exited.then(() => true), late])
    clearTimeout(timer)
    if (!inTime) member.process.kill('SIGKILL')
    return inTime
  }

  /** Ends everybody who is left, even the frozen, except those of one role. */
  async disband(except?: Role): Promise<void> {
    const left = this.members.filter(({ role, process }) => role !== except && !hasEnded(process))
    await Promise.all(
      left.map((member) => {
        member.state = 'stopping'
        member.process.kill('SIGKILL')
        return member.exited
      }),
    )
  }
}

export const hasEnded = ({ exitCode, signalCode }: ChildProcess): boolean =>
  exitCode !== null || signalCode !== null

/** Keeps the account of a member by what it tells. */
export function account(member: Member<string>, event: TwinboxEvent): void {
  member.workerId = event.workerId ?? member.workerId
  if (event.type === 'lanes_taken') for (const lane of event.lanes) member.lanes.add(lane)
  else if (event.type === 'lanes_released' || event.type === 'lease_lost') {
    for (const lane of event.lanes) member.lanes.delete(lane)
  } else if (event.type === 'claimed') member.claimed += event.ids.length
  else if (event.type === 'handled' || event.type === 'sent') member.done += event.ids.length
  else if (event.type === 'received') member.done += event.fresh
}

/** The first signal ends the command and removes what it made; the second leaves that to the children. */
export function stopOnSignals<Role extends string>(
  what: string,
  parts: {
    readonly crew: Crew<Role, never, never>
    readonly say: (text: string) => void
    /** Not ended by the second signal: it has files to remove, and ends with its parent. */
    readonly except: Role
  },
): { signal: Promise<never>; release: () => void } {
  let interrupt: (error: Error) => void = () => {}
  const signal = new Promise<never>((_, reject) => (interrupt = reject))
  signal.catch(() => {})
  let signals = 0
  const onSignal = (name: NodeJS.Signals): void => {
    if (++signals > 1) {
      for (const member of parts.crew.members) {
        if (member.role !== parts.except) member.process.kill('SIGKILL')
      }
      process.exit(1)
    }
    parts.say(`${name}: ending all processes and removing what they made …`)
    interrupt(new Error(`The ${what} was interrupted.`))
  }
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const name of names) process.on(name, onSignal)
  return {
    signal,
    release: () => {
      for (const name of names) process.off(name, onSignal)
    },
  }
}
