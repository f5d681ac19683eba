import { failoverStrategies } from '../../src/membership/failover.ts'
import type { FailoverStrategy } from '../../src/base/events.ts'
import type { Member } from '../crew.ts'
import { defaults } from '../faults.ts'
import { jain, mean, now, rounded, spread, table, total } from '../figures.ts'
import { consumer, faultsOf, Ledger, Load, skewed, type Account } from '../ledger.ts'
import { count, type Common, type Outcome, type Scenario, type Stage } from '../scenario.ts'

interface Options extends Common {
  readonly rounds: number
}

/** What the handlers of the five claimers take. The second and the fourth are killed. */
const handleMs = [1, 1, 1, 2, 4] as const
const concurrency = 3
/** So many messages wait at least while claimers are killed. */
const depth = 2500
const watchedMs = 5000
const patienceMs = 60_000

/** What one kill came to. */
interface Figures {
  readonly firstMs: number
  readonly lastMs: number
  /** Of the last lane; rows come when those who take them have hands free. */
  readonly lastLaneMs: number
  /** How evenly the survivors share the work of the next seconds. Of unequal speed, they should not share it equally. */
  readonly jain: number
  readonly handledPerS: number
  readonly latencyP99Ms: number
  /** How much more than the mean the one took over that took most: of lanes and rows. */
  readonly lanesMaxToMean: number
  readonly rowsMaxToMean: number
}

export const strategies: Scenario<Options> = {
  name: 'strategies',
  does: 'Compares the failover strategies: two of five unequal claimers are killed over a deep and skewed inbox.',
  addOptions(command) {
    command.option('-r, --rounds <number>', 'how often each strategy is tried', count(1, 1000), 3)
  },
  async run(stage, { rounds }) {
    const ledger = await Ledger.open(stage.scratch)
    const trials = new Map(failoverStrategies.map((strategy) => [strategy, [] as Trial[]]))
    for (let round = 0; round < rounds; round++) {
      // In another order each time, so that none always comes after the same one.
      const turn = round % failoverStrategies.length
      for (const strategy of [...failoverStrategies.slice(turn), ...failoverStrategies.slice(0, turn)]) {
        const trial = await new Trial(stage, ledger, strategy).run()
        trials.get(strategy)!.push(trial)
        const said = trial.kills.map(
          ({ firstMs, lastMs }) => `${Math.round(firstMs)}-${Math.round(lastMs)} ms`,
        )
        stage.say(`${strategy} ${round + 1}/${rounds}: taken over in ${said.join(' and ')}`)
      }
    }
    return conclude(trials)
  },
}

class Trial {
  readonly kills: Figures[] = []
  account!: Account
  readonly problems: string[] = []
  readonly #stage: Stage
  readonly #ledger: Ledger
  readonly #strategy: FailoverStrategy

  constructor(stage: Stage, ledger: Ledger, strategy: FailoverStrategy) {
    this.#stage = stage
    this.#ledger = ledger
    this.#strategy = strategy
  }

  async run(): Promise<this> {
    const { crew } = this.#stage
    await crew.employ('relay', { options: defaults })
    const options = { ...defaults, concurrency, failover: this.#strategy }
    const claimers = await Promise.all(
      handleMs.map((ms) => crew.employ('claimer', { options, handleMs: ms })),
    )
    await crew.settled()
    const load = new Load(this.#ledger, 0, skewed(0.3))
    const flood = new Flood(this.#stage, load)
    await flood.rise()
    for (const victim of [claimers[1]!, claimers[3]!]) this.kills.push(await this.#kill(victim))
    await flood.stop()
    await this.#ledger.drained()
    this.account = await this.#ledger.audit()
    this.problems.push(...faultsOf(this.account).map((fault) => `${this.#strategy}: ${fault}`))
    await crew.disband()
    await this.#ledger.clear()
    return this
  }

  async #kill(victim: Member): Promise<Figures> {
    const { crew, scratch } = this.#stage
    await crew.settled()
    await scratch.until(
      'Waiting for a deep inbox',
      `select count(*) >= ${depth} as done from twinbox.inbox where consumer = $1`,
      [consumer],
    )
    crew.forget()
    const id = victim.workerId!
    const [clock] = await scratch.query<{ at: Date }>('select clock_timestamp() as at')
    const hitAt = now()
    await crew.kill(victim)
    const survivors = crew.of('claimer')
    const left = `select (select count(*) from twinbox.lane where holder = $1)
      + (select count(*) from twinbox.inbox where holder = $1 and consumer = $2) = 0 as done`
    await scratch.until('Waiting for the takeover', left, [id, consumer], patienceMs)
    await new Promise((wake) => setTimeout(wake, Math.max(0, watchedMs - (now() - hitAt))))
    const takeovers = crew.told('takeover').filter(({ event }) => event.fromWorkerId === id)
    const took = survivors.map((member) => {
      const own = takeovers.filter((seen) => seen.member === member).map(({ event }) => event)
      return { lanes: total(own.map(({ lanes }) => lanes.length)), rows: total(own.map(({ rows }) => rows)) }
    })
    const effects = await scratch.query<{ worker: number; latency: number }>(
      `select e.worker, extract(epoch from e.handled_at - l.published_at)::float8 * 1000 as latency
      from effects as e join ledger as l using (id)
      where e.handled_at between $1::timestamptz and $1::timestamptz + $2::float8 * interval '1 millisecond'`,
      [clock!.at, watchedMs],
    )
    const shares = survivors.map(({ workerId }) => effects.filter(({ worker }) => worker === workerId).length)
    const times = takeovers.map(({ at }) => at - hitAt)
    const laneTimes = takeovers.flatMap(({ at, event }) => (event.lanes.length > 0 ? [at - hitAt] : []))
    return {
      firstMs: rounded(Math.min(...times)),
      lastMs: rounded(Math.max(...times)),
      lastLaneMs: rounded(Math.max(...laneTimes)),
      jain: jain(shares),
      handledPerS: rounded(total(shares) / (watchedMs / 1000)),
      latencyP99Ms: spread(effects.map(({ latency }) => latency)).p99 ?? 0,
      lanesMaxToMean: maxToMean(took.map(({ lanes }) => lanes)),
      rowsMaxToMean: maxToMean(took.map(({ rows }) => rows)),
    }
  }
}

/** Publishes as fast as it takes to keep the inbox deep, however fast it is emptied. */
class Flood {
  readonly #stage: Stage
  readonly #load: Load
  #running: Promise<void> = Promise.resolve()
  #wanted = true

  constructor(stage: Stage, load: Load) {
    this.#stage = stage
    this.#load = load
  }

  async rise(): Promise<void> {
    this.#running = this.#run().catch(this.#stage.crew.fail)
    await this.#stage.scratch.until(
      'Waiting for a deep inbox',
      `select count(*) >= ${depth} as done from twinbox.inbox`,
    )
  }

  async stop(): Promise<void> {
    this.#wanted = false
    await this.#running
  }

  async #run(): Promise<void> {
    while (this.#wanted) {
      const [{ waiting } = { waiting: 0 }] = await this.#stage.scratch.query<{ waiting: number }>(
        'select (select count(*)::int from twinbox.inbox) + (select count(*)::int from twinbox.outbox) as waiting',
      )
      const missing = depth * 1.4 - waiting
      if (missing > 100) await this.#load.publish(this.#load.keys(Math.min(500, Math.round(missing))))
      else await new Promise((wake) => setTimeout(wake, 50))
    }
  }
}

const maxToMean = (values: readonly number[]): number => rounded(Math.max(...values) / (mean(values) || 1), 2)

function conclude(trials: ReadonlyMap<FailoverStrategy, readonly Trial[]>): Outcome {
  const columns = [
    ['firstMs', 'first ms'],
    ['lastLaneMs', 'last lane ms'],
    ['lastMs', 'last row ms'],
    ['jain', 'Jain index'],
    ['handledPerS', 'handled/s'],
    ['latencyP99Ms', 'p99 latency ms'],
    ['lanesMaxToMean', 'lanes max/mean'],
    ['rowsMaxToMean', 'rows max/mean'],
  ] as const
  const all = [...trials].map(([strategy, tried]) => {
    const kills = tried.flatMap((trial) => trial.kills)
    const figures = columns.map(
      ([name]) => [name, rounded(mean(kills.map((kill) => kill[name])), 2)] as const,
    )
    const redeliveries = total(tried.map(({ account }) => account.claimedAgain + account.sentAgain))
    return { strategy, tried, kills, figures, redeliveries }
  })
  const problems = all.flatMap(({ tried }) => tried.flatMap((trial) => trial.problems))
  for (const { strategy, kills } of all) {
    if (kills.some(({ firstMs }) => !Number.isFinite(firstMs)))
      problems.push(`${strategy}: no takeover was seen`)
  }
  return {
    text: [
      `The mean of the kills: two in each of ${all[0]!.tried.length} rounds; shares and latency of the ${watchedMs / 1000} s after each`,
      table(
        ['strategy', ...columns.map(([, head]) => head), 'redeliveries'],
        all.map(({ strategy, figures, redeliveries }) => [
          strategy,
          ...figures.map(([, value]) => value),
          redeliveries,
        ]),
      ),
      ...problems,
    ].join('\n'),
    result: {
      valid: problems.length === 0,
      strategies: Object.fromEntries(
        all.map(({ strategy, figures, redeliveries, kills, tried }) => [
          strategy,
          {
            ...Object.fromEntries(figures),
            redeliveries,
            kills,
            accounts: tried.map(({ account }) => account),
          },
        ]),
      ),
      problems,
    },
  }
}
