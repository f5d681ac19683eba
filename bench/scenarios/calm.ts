import { cpus } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { defaults } from '../faults.ts'
import { mean, rounded, table } from '../figures.ts'
import { faultsOf, Ledger, Load } from '../ledger.ts'
import { within, type Common, type Scenario, type Stage } from '../scenario.ts'

interface Options extends Common {
  readonly minutes: number
  readonly rate: number
  readonly cpu: number
}

const claimers = 3
const relays = 2
const longestStallMs = 1000
const tickMs = 500

/**
 * A busy machine, and nobody dies. Each death that a worker finds is a wrong one, each takeover work done twice. In the
 * end one is forced, to see that it would have done no harm.
 */
export const calm: Scenario<Options> = {
  name: 'calm',
  does: 'Lets workers work on a busy machine with stalls, where nobody dies, and counts those taken for dead.',
  addOptions(command) {
    command
      .option('-m, --minutes <number>', 'how long', within(0.05, 10_000), 10)
      .option('--cpu <percent>', 'how busy the machine is kept', within(10, 100), 80)
      .option('--rate <number>', 'messages published per second', within(1, 5000), 200)
  },
  async run(stage, { minutes, rate, cpu: wantedCpu }) {
    const { crew, say } = stage
    const ledger = await Ledger.open(stage.scratch)
    const options = { ...defaults, concurrency: 4 }
    await Promise.all([
      ...Array.from({ length: claimers }, () => crew.employ('claimer', { options })),
      ...Array.from({ length: relays }, () => crew.employ('relay', { options: defaults })),
      ...cpus().map(() => crew.employ('burner')),
    ])
    await crew.settled()
    crew.forget()
    const load = new Load(ledger, rate)
    load.start(crew.fail)
    const weather = new Weather(stage, wantedCpu / 100)
    const end = performance.now() + minutes * 60_000
    let ticks = 0
    while (performance.now() < end) {
      await weather.tick()
      if (++ticks % 20 === 0) {
        const left = Math.max(0, Math.round((end - performance.now()) / 1000))
        say(`${left} s left, CPU ${weather.cpu} %, ${weather.stalls} stalls, ${wrongful(stage)} wrongful`)
      }
    }
    const calmly = { wrongful: wrongful(stage), deaths: crew.told('worker_dead').length }
    const lost = crew.told('lease_lost').length
    const takeovers = crew.told('takeover').length
    weather.clear()
    await crew.settled()
    const forced = await force(stage)
    await crew.settled()
    await load.stop()
    await ledger.drained()
    const account = await ledger.audit()
    const faults = faultsOf(account)
    const problems = [
      ...faults,
      ...(forced.takeovers === 0 ? ['The wrongful takeover could not be forced.'] : []),
    ]
    const figures = {
      minutes,
      cpu: weather.cpu,
      stalls: weather.stalls,
      ...calmly,
      takeovers,
      leasesLost: lost,
    }
    const harmless = faults.length === 0
    return {
      text: [
        table(Object.keys(figures), [Object.values(figures)]),
        `Forced: ${forced.deaths} taken for dead, ${forced.takeovers} takeovers, ${harmless ? 'no harm done' : 'HARM DONE'}; ` +
          `${account.published} messages published, ${account.claimedAgain} claimed again, ${account.sentAgain} sent again`,
        ...problems,
      ].join('\n'),
      result: {
        valid: problems.length === 0,
        met: calmly.wrongful === 0,
        goal: 'nobody who lives is taken for dead, and to take one for dead does no harm',
        ...figures,
        forced: { ...forced, harmless },
        account,
        problems,
      },
    }
  },
}

/** Verdicts on the living, and takeovers from them. */
const wrongful = ({ crew }: Stage): number => crew.told('worker_dead').length + crew.told('takeover').length

/** Keeps the machine as busy as asked for, and lets one worker after the other stand still for a while. */
class Weather {
  stalls = 0
  readonly #stage: Stage
  readonly #wanted: number
  readonly #measured: number[] = []
  #share: number
  #last = times()

  constructor(stage: Stage, wanted: number) {
    this.#stage = stage
    this.#wanted = wanted
    this.#share = wanted / 2
  }

  /** How busy the machine was on average, in percent. */
  get cpu(): number {
    return rounded(mean(this.#measured) * 100)
  }

  async tick(): Promise<void> {
    const { crew } = this.#stage
    const workers = [...crew.of('claimer'), ...crew.of('relay')]
    if (Math.random() < 0.25) {
      const unlucky = workers[Math.floor(Math.random() * workers.length)]!
      crew.tell(unlucky, { type: 'stall', ms: Math.ceil(Math.random() * longestStallMs) })
      this.stalls++
    }
    await sleep(tickMs)
    const present = times()
    const busy = (present.busy - this.#last.busy) / Math.max(1, present.all - this.#last.all)
    this.#last = present
    this.#measured.push(busy)
    // Our own share makes up for what the others leave; with gusts, since an even load is an easy one.
    this.#share = Math.min(1, Math.max(0, this.#share + (this.#wanted - busy) * 0.3))
    const gust = Math.random() * 0.4 - 0.2
    this.#burn(Math.min(1, Math.max(0, this.#share + gust)))
  }

  clear(): void {
    this.#burn(0)
  }

  #burn(share: number): void {
    for (const burner of this.#stage.crew.of('burner')) this.#stage.crew.tell(burner, { type: 'burn', share })
  }
}

function times(): { busy: number; all: number } {
  let busy = 0
  let all = 0
  for (const { times: spent } of cpus()) {
    all += spent.user + spent.nice + spent.sys + spent.irq + spent.idle
    busy += spent.user + spent.nice + spent.sys + spent.irq
  }
  return { busy, all }
}

/** Takes from a living claimer the lock that shows that it lives, while it cannot get it back. */
async function force({ crew, scratch, say }: Stage): Promise<{ deaths: number; takeovers: number }> {
  crew.forget()
  const victim = crew.of('claimer')[0]!
  const id = victim.workerId!
  // With its event loop at rest it would have a new session and the lock within milliseconds.
  crew.tell(victim, { type: 'stall', ms: 2 * longestStallMs })
  await sleep(100)
  await scratch.query(
    `select pg_terminate_backend(pid) from pg_locks
    where locktype = 'advisory' and classid = 'twinbox.worker'::regclass and objid = $1 and objsubid = 2`,
    [id],
  )
  await crew.until(() => crew.told('takeover').some(({ event }) => event.fromWorkerId === id), 20_000)
  const deaths = crew.told('worker_dead').filter(({ event }) => event.deadWorkerId === id).length
  // It finds out, and comes back under another id.
  if (deaths > 0) await crew.until(() => victim.workerId !== id, 20_000)
  const takeovers = crew.told('takeover').filter(({ event }) => event.fromWorkerId === id).length
  say(`forced: worker ${id} taken for dead, back as ${victim.workerId}`)
  return { deaths, takeovers }
}
