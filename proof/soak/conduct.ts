import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Database } from '../../src/database/database.ts'
import { soakSql } from '../sql/soak.ts'
import type { Run } from '../stage/broker.ts'
import type { Crew } from '../stage/crew.ts'
import { hireServer, type Performance } from '../stage/performance.ts'
import { openScratch, type Place } from '../stage/scratch.ts'
import { check, type Findings } from './checker.ts'
import type { News, Order, Role } from './child.ts'
import { Company, type Cast } from './company.ts'
import { Gauge } from './gauge.ts'
import { History } from './history.ts'
import type { LoadOptions } from './load.ts'
import { Nemesis } from './nemesis.ts'
import { Operator } from './operator.ts'

/** What a command of the proof decides of a run. */
export interface Script {
  readonly what: 'demo' | 'soak'
  readonly place: Place
  readonly cast: Cast
  readonly load: LoadOptions
  readonly restartBroker: string | null
  /** How often it looks at the tables, and the longest that it stands still before it is given up. */
  readonly sampleMs: number
  readonly standstillMs: number
  /** Has messages published and faults come down, until there were enough of both. */
  readonly act: (scene: Scene) => Promise<void>
}

/** With what a run works. */
export interface Scene {
  readonly run: Run
  readonly database: Database
  readonly company: Company
  readonly nemesis: Nemesis
  readonly gauge: Gauge
  readonly operator: Operator
}

/** What a run came to. */
export interface Outcome extends Scene {
  readonly findings: Findings
  /** What is wrong, in sentences. */
  readonly problems: readonly string[]
  /** By this machine's clock, when the load began, and for how long it lasted. */
  readonly startedAt: number
  readonly seconds: number
  /** 99th percentile of the delay of this process's event loop. */
  readonly delayMs: number
}

/** The rules that a result has a line of its own for. All others are one more. */
const named = ['lost', 'ghosts', 'altered', 'duplicateEffects', 'orderViolations', 'zombieWrites']

/** How many break rules that have no line of their own. */
export const otherViolations = ({ broken }: Findings): number =>
  Object.entries(broken).reduce((sum, [rule, count]) => (named.includes(rule) ? sum : sum + count), 0)

export type Stage = Performance & {
  readonly crew: Crew<Role, Order, News>
  /** For the histories. */
  readonly folder: string
}

/**
 * A run of the proof, from the empty schema to the findings: publishes, relays, receives and handles with real processes while
 * faults come down on them; then heals, waits until everything has been handled, and checks what came out against every
 * promise.
 */
export async function conduct(script: Script, { crew, view, folder, cleanUp }: Stage): Promise<Outcome> {
  const { what, place, cast, load, restartBroker, standstillMs } = script
  const delay = monitorEventLoopDelay({ resolution: 10 })
  delay.enable()
  const { run, database, addresses } = await openScratch({
    ...{ what, place, sql: soakSql, cleanUp },
    databaseUrl: place.database ?? (await hireServer(crew, { view, cleanUp })),
    say: (text) => view.say(text),
  })
  const company = new Company({ run, folder, load, cast, crew })
  const hands = Object.entries(cast.strength).map(
    ([role, count]) => `${count} ${role}${count > 1 ? 's' : ''}`,
  )
  view.say(`Starting ${hands.join(', ')}${cast.network ? ' and a network' : ''}, over ${run.broker} …`)
  await company.open(addresses)
  const history = new History(join(folder, 'nemesis.tsv'))
  cleanUp.push(async () => history.close())
  const nemesis = new Nemesis({
    ...{ company, database, restartBroker, history },
    databaseUrl: run.databaseUrl,
    ownServer: place.database === undefined,
    say: (text) => view.say(text),
  })
  const operator = new Operator(database)
  cleanUp.push(() => operator.stop())
  const gauge = new Gauge(database, company, nemesis, script.sampleMs)
  const scene: Scene = { run, database, company, nemesis, gauge, operator }

  const startedAt = Date.now()
  gauge.start(startedAt)
  await company.beginLoad()
  await script.act(scene)
  view.say('Waiting until everything has been handled …')
  await nemesis.healed()
  await company.stop('publisher')
  const problems: string[] = []
  for (gauge.calm(); ; await sleep(script.sampleMs / 10)) {
    await gauge.look()
    view.update(gauge.published, gauge.handled)
    if (gauge.isEmpty && (await gauge.isComplete())) break
    if (gauge.stoodStillMs > standstillMs) {
      problems.push(
        `Nothing has been handled for ${standstillMs / 1000} s, although nothing is in the way: ${gauge.leftovers()}`,
      )
      break
    }
  }
  view.update(gauge.published, gauge.handled)
  await operator.stop()
  await company.stop()
  gauge.stop()
  view.end()
  const seconds = (Date.now() - startedAt) / 1000
  const connections = await connectionsLeft(database, run)
  if (connections > 0)
    problems.push(`${connections} connections of processes that have ended are still there`)
  view.say('Holding what was handled against what was committed …')
  const findings = await check(database, folder)
  problems.push(
    ...Object.entries(findings.broken).flatMap(([rule, count]) => (count === 0 ? [] : [`${rule}: ${count}`])),
    ...findings.violations.slice(0, 10).map(({ rule, id, why }) => `${rule} ${id ?? ''}: ${why}`),
    ...company.unexpected,
    ...company.unruly,
  )
  const delayMs = Math.round(delay.percentile(99) / 1e6)
  delay.disable()
  return { ...scene, findings, problems, startedAt, seconds, delayMs }
}

/** The server needs a moment to notice that a client has gone. */
async function connectionsLeft(database: Database, run: Run): Promise<number> {
  for (let tries = 0; ; tries++) {
    const [left] = await database.query(soakSql(run.schema).connections, { prefix: `${run.name}.` })
    if (left!.count === 0 || tries === 50) return left!.count
    await sleep(100)
  }
}
