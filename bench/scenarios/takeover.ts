import { InvalidArgumentError, Option } from 'commander'
import type { Member } from '../crew.ts'
import { defaults, faults, type Fault, type Network, type Route } from '../faults.ts'
import { now } from '../figures.ts'
import { faultsOf, Ledger, Load, type Account } from '../ledger.ts'
import { count, type Common, type Scenario, type Stage } from '../scenario.ts'
import { conclude, type Result } from '../verdict.ts'

interface Options extends Common {
  readonly kills: number
  readonly only: readonly string[]
  readonly rate: number
}

const patienceMs = 60_000
const crewOf = { claimer: 3, relay: 2 } as const
const concurrency = 4
const names = faults.map(({ name }) => name)

export const takeover: Scenario<Options> = {
  name: 'takeover',
  does: 'Kills claimers and relays under load and measures how soon a survivor claims the work of each victim.',
  addOptions(command) {
    command
      .option('-k, --kills <number>', 'how often each kind of worker is hit, each way', count(1, 10_000), 50)
      .addOption(
        new Option('--only <faults>', `some of: ${names.join(', ')}`)
          .argParser(readFaults)
          .default(names, 'all'),
      )
      .option('--rate <number>', 'messages published per second', count(1, 5000), 200)
      .addHelpText(
        'after',
        `\nWays to be hit:\n${faults.map(({ name, does }) => `  ${name.padEnd(18)} ${does}`).join('\n')}`,
      )
  },
  async run(stage, { kills, only, rate }) {
    const ledger = await Ledger.open(stage.scratch)
    const results: Result[] = []
    for (const fault of faults.filter(({ name }) => only.includes(name)))
      results.push(await new Trial(stage, ledger, fault, rate).run(kills))
    return conclude(results, kills)
  },
}

function readFaults(text: string): readonly string[] {
  return text.split(',').map((name) => {
    if (names.includes(name.trim())) return name.trim()
    throw new InvalidArgumentError(`There is no fault "${name}".`)
  })
}

/** One worker that was hit. */
interface Victim {
  readonly member: Member
  readonly workerId: number
  readonly hitAt: number
}

/** One fault, as often as asked for, with the same ledger from beginning to end. */
class Trial {
  readonly #stage: Stage
  readonly #ledger: Ledger
  readonly #fault: Fault
  readonly #load: Load
  #network!: Network
  readonly #routes = new Map<Member, Route>()
  readonly #times = { claimer: [] as number[], relay: [] as number[] }
  readonly #resumed: number[] = []
  readonly #problems: string[] = []
  #wrongful = 0

  constructor(stage: Stage, ledger: Ledger, fault: Fault, rate: number) {
    this.#stage = stage
    this.#ledger = ledger
    this.#fault = fault
    this.#load = new Load(ledger, rate)
  }

  async run(kills: number): Promise<Result> {
    const { crew, scratch, cleanUp } = this.#stage
    const network = await this.#fault.network(scratch.url)
    if ('missing' in network) return { ...this.#result(null), skipped: network.missing }
    if (network.close !== undefined) cleanUp.push(network.close)
    this.#network = network
    const roles = (['claimer', 'relay'] as const).flatMap((role) =>
      Array<typeof role>(crewOf[role]).fill(role),
    )
    await Promise.all(roles.map((role) => this.#hire(role)))
    await crew.settled()
    this.#load.start(crew.fail)
    for (let round = 1; round <= kills; round++) await this.#round(round, kills)
    await this.#load.stop()
    await this.#ledger.drained()
    const account = await this.#ledger.audit()
    await crew.disband()
    await this.#ledger.clear()
    return this.#result(account)
  }

  async #round(round: number, kills: number): Promise<void> {
    const { crew, say } = this.#stage
    const { name, hits, strike, clean } = this.#fault
    // What came before this round is of no interest any more.
    crew.forget()
    const stuck = this.#fault.midStatement === true ? await this.#stick(round) : null
    const members = hits.map((role) => stuck?.member ?? crew.of(role)[0]!)
    const victims = members.map((member): Victim => {
      if (member.lanes.size === 0) this.#complain(round, `the ${member.role} held nothing`)
      member.state = 'stopping'
      const hitAt = now()
      strike(member, this.#routes.get(member)!)
      return { member, workerId: member.workerId!, hitAt }
    })
    await crew.until(() => victims.every((victim) => this.#takenAt(victim) !== null), patienceMs)
    if (stuck !== null) await crew.until(() => this.#resumedAt(stuck.id) !== null, patienceMs)
    for (const { member } of victims) {
      if (clean !== true) await crew.kill(member)
      else if (!(await crew.ended(member)))
        this.#complain(round, `the ${member.role} did not stop in good order`)
      await this.#routes.get(member)!.close?.()
    }
    await Promise.all(victims.map(({ member }) => this.#hire(member.role)))
    await crew.settled()
    // Only now has everybody's word arrived, so that it is known who was the first.
    const figures = victims.map(({ member: { role }, ...victim }) => {
      const at = this.#takenAt(victim)
      if (at === null) this.#complain(round, `no survivor took over from the ${role}`)
      else this.#times[role as 'claimer'].push(at - victim.hitAt)
      return `${role} ${at === null ? 'never' : `${Math.round(at - victim.hitAt)} ms`}`
    })
    this.#wrongful += crew
      .told('worker_dead')
      .filter(({ event }) => victims.every(({ workerId }) => workerId !== event.deadWorkerId)).length
    const resumedAt = stuck === null ? null : this.#resumedAt(stuck.id)
    if (resumedAt !== null) this.#resumed.push(resumedAt - victims[0]!.hitAt)
    else if (stuck !== null) this.#complain(round, 'the message of the long statement was not handled again')
    say(`${name} ${round}/${kills}: ${figures.join(', ')}`)
  }

  /** Has some claimer run a long statement, in its handler's transaction. */
  async #stick(round: number): Promise<{ member: Member; id: string }> {
    const { crew, scratch } = this.#stage
    const [id] = await this.#load.publish([round % 2 === 0 ? null : `k${round % 100}`], { stick: true })
    if (!(await crew.until(() => crew.stuck.some((stuck) => stuck.id === id), patienceMs))) {
      throw new Error('The message of the long statement was not handled.')
    }
    await scratch.until(
      'Waiting for the long statement',
      `select count(*) > 0 as done from pg_stat_activity
      where datname = current_database() and state = 'active' and query = 'select pg_sleep(60)'`,
    )
    return { member: crew.stuck.find((stuck) => stuck.id === id)!.member, id: id! }
  }

  #resumedAt(id: string): number | null {
    return this.#stage.crew.stuck.find((stuck) => stuck.id === id && stuck.again)?.at ?? null
  }

  /** When the first of a victim's work was in a survivor's hands. */
  #takenAt({ workerId, hitAt }: Omit<Victim, 'member'>): number | null {
    const { crew } = this.#stage
    const takeovers = crew.told('takeover').filter(({ event }) => event.fromWorkerId === workerId)
    if (this.#fault.clean !== true) return takeovers[0] === undefined ? null : earliest(takeovers)
    // What was given back in good order is nobody's work to take over: it shows by the lanes.
    const given = new Set(
      crew
        .told('lanes_released')
        .flatMap(({ at, event }) => (event.workerId === workerId && at >= hitAt ? event.lanes : [])),
    )
    const takes = crew
      .told('lanes_taken')
      .filter(({ at, event }) => at >= hitAt && event.lanes.some((lane) => given.has(lane)))
    return takes[0] === undefined ? null : earliest(takes)
  }

  async #hire(role: Member['role']): Promise<void> {
    const route = await this.#network.route()
    const size = role === 'claimer' ? { concurrency } : {}
    const options = { ...defaults, ...size, ...this.#network.options }
    this.#routes.set(await this.#stage.crew.employ(role, { database: route.url, options }), route)
  }

  #complain(round: number, problem: string): void {
    this.#problems.push(`${this.#fault.name} ${round}: ${problem}`)
  }

  #result(account: Account | null): Result {
    const wrong = account === null ? [] : faultsOf(account).map((fault) => `${this.#fault.name}: ${fault}`)
    return {
      fault: this.#fault,
      ...this.#times,
      resumed: this.#resumed,
      wrongful: this.#wrongful,
      account,
      problems: [...this.#problems, ...wrong],
    }
  }
}

const earliest = (seen: readonly { readonly at: number }[]): number => Math.min(...seen.map(({ at }) => at))
