import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Database } from '../../src/database/database.ts'
import { soakSql } from '../sql/soak.ts'
import { version } from '../../src/base/version.ts'
import { Crew } from '../stage/crew.ts'
import { brokerUrlOf, chooseServer, openScratch, type Place } from '../stage/scratch.ts'
import { hireServer, perform, type Performance } from '../stage/performance.ts'
import type { Run } from '../stage/broker.ts'
import { check } from './checker.ts'
import type { News, Order, Role } from './child.ts'
import { Company } from './company.ts'
import { Gauge } from './gauge.ts'
import { Nemesis, whyNot } from './nemesis.ts'
import { Operator } from './operator.ts'
import { kinds, makePlan, readPlan, type Kind, type Plan } from './plan.ts'
import { recoveryOf, renderResult, renderViolations, type SoakResult } from './report.ts'
import { drawTimeline } from './timeline.ts'

export interface SoakOptions extends Place {
  readonly minutes?: number
  readonly seed: number
  readonly messages?: number
  readonly rate: number
  readonly keys: number
  readonly faults?: number
  readonly schedule?: string
  readonly restartBroker?: string
  readonly report?: string
  readonly json?: boolean
}

/** One fault in so many seconds, unless told otherwise. */
const secondsPerFault = 6
/** Nothing may hang: the longest that a run stands still before it is given up. */
const standstillMs = 90_000

/**
 * Publishes, relays, receives and handles with real processes while faults come down on them by a plan; then heals,
 * waits until everything has been handled, and checks what came out against every promise.
 */
export async function runSoak(asked: SoakOptions): Promise<0 | 1> {
  brokerUrlOf(asked)
  const options = chooseServer('soak', asked)
  const given = options.schedule === undefined ? null : readPlan(options.schedule)
  const folder = openFolder(options.report)
  const crew = new Crew<Role, Order, News>(new URL('./child.js', import.meta.url))
  let keep = options.report !== undefined
  try {
    return await perform(
      'soak',
      crew,
      (stage) => play(options, given, { crew, folder, ...stage }),
      (result, view) => {
        keep ||= !result.ok
        if (options.json === true) {
          if (!result.ok) process.stderr.write(`${result.problems.join('\n')}\n`)
          process.stdout.write(`${JSON.stringify(result)}\n`)
        } else process.stdout.write(renderResult(result))
        if (keep) view.say(`The report, the schedule, the timeline and the histories are in ${folder}`)
        return result.ok ? 0 : 1
      },
    )
  } finally {
    if (!keep) rmSync(folder, { recursive: true, force: true })
  }
}

interface Stage extends Performance {
  readonly crew: Crew<Role, Order, News>
  readonly folder: string
}

async function play(options: SoakOptions, given: Plan | null, stage: Stage): Promise<SoakResult> {
  const { crew, view, folder, cleanUp } = stage
  const delay = monitorEventLoopDelay({ resolution: 10 })
  delay.enable()
  const ownServer = options.database === undefined
  const { run, database, addresses } = await openScratch({
    what: 'soak',
    place: options,
    databaseUrl: options.database ?? (await hireServer(crew, stage)),
    sql: soakSql,
    say: (text) => view.say(text),
    cleanUp,
  })
  const seed = given?.seed ?? options.seed
  const seconds = given?.seconds ?? secondsOf(options)
  const messages = options.messages ?? Math.round(seconds * options.rate)
  const company = new Company(
    run,
    folder,
    {
      seed,
      keys: options.keys,
      rate: options.rate / 2,
      oneInDies: options.faults === 0 ? 0 : Math.max(2000, Math.round(messages / (seconds / 60))),
    },
    crew,
  )
  view.say(`Starting receivers, relays, claimers, publishers and a network, over ${run.broker} …`)
  await company.open(addresses)
  const nemesis = new Nemesis({
    company,
    database,
    databaseUrl: run.databaseUrl,
    ownServer,
    restartBroker: options.restartBroker ?? null,
    say: (text) => view.say(text),
  })
  const reasons = new Map(
    (Object.keys(kinds) as Kind[]).flatMap((kind) => {
      const why = whyNot(kind, { company, ownServer, restartBroker: options.restartBroker ?? null })
      return why === null ? [] : [[kind, why] as const]
    }),
  )
  const plan =
    given ?? makePlan(seed, seconds, options.faults ?? Math.round(seconds / secondsPerFault), reasons)
  writeFileSync(join(folder, 'schedule.json'), `${JSON.stringify(plan, null, 1)}\n`)
  for (const [kind, why] of reasons) view.say(`No ${kind}: ${why}.`)
  view.say(
    `${plan.faults.length} faults in ${seconds} s, ${messages} messages at ${options.rate}/s, seed ${seed}`,
  )

  const operator = new Operator(database)
  cleanUp.push(() => operator.stop())
  const gauge = new Gauge(database, company, nemesis)
  view.show(
    messages,
    () => gauge.lines(plan.faults.length),
    () => gauge.summary(plan.faults.length),
  )
  const startedAt = Date.now()
  gauge.start(startedAt)
  let next = 0
  for (;;) {
    const passed = Date.now() - startedAt
    for (
      let fault = plan.faults[next];
      fault !== undefined && fault.at <= passed;
      fault = plan.faults[next]
    ) {
      next++
      if (!reasons.has(fault.kind)) nemesis.strike(fault)
    }
    await gauge.look()
    view.update(gauge.published, gauge.handled)
    if (passed >= seconds * 1000 && (options.messages === undefined || gauge.published >= messages)) {
      const exact = await gauge.exact()
      if (exact !== null && (options.messages === undefined || exact.published >= options.messages)) break
    }
    company.setRate(gauge.isBehind(options.rate) ? options.rate / 5 : options.rate)
    if (gauge.stoodStillMs > standstillMs) break
    await sleep(100)
  }
  view.say('Healing, and waiting until everything has been handled …')
  await nemesis.healed()
  await company.stop('publisher')
  const problems: string[] = []
  for (gauge.calm(); ; await sleep(100)) {
    await gauge.look()
    view.update(gauge.published, gauge.handled)
    if (gauge.isEmpty && (await gauge.isComplete())) break
    if (gauge.stoodStillMs > standstillMs) {
      problems.push(
        `Nothing has been handled for ${standstillMs / 1000} s, although all is healed: ${gauge.leftovers()}`,
      )
      break
    }
  }
  await operator.stop()
  await company.stop()
  gauge.stop()
  view.end()
  const loadSeconds = (Date.now() - startedAt) / 1000
  const connections = await connectionsLeft(database, run)
  if (connections > 0)
    problems.push(`${connections} connections of processes that have ended are still there`)
  view.say('Holding what was handled against what was committed …')
  const found = await check(database, folder)
  const counts = Object.entries(found.broken)
  const named = ['lost', 'ghosts', 'altered', 'duplicateEffects', 'orderViolations', 'zombieWrites']
  problems.push(
    ...counts.flatMap(([rule, count]) => (count === 0 ? [] : [`${rule}: ${count}`])),
    ...found.violations.slice(0, 10).map(({ rule, id, why }) => `${rule} ${id ?? ''}: ${why}`),
    ...company.unexpected,
    ...company.unruly,
  )
  const result: SoakResult = {
    ok: problems.length === 0,
    broker: run.broker,
    seed,
    published: found.counts.published,
    handled: found.counts.handled,
    deadLetters: found.counts.dead,
    lost: found.broken.lost,
    ghosts: found.broken.ghosts,
    altered: found.broken.altered,
    duplicateEffects: found.broken.duplicateEffects,
    orderViolations: found.broken.orderViolations,
    zombieWrites: found.broken.zombieWrites,
    otherViolations: counts.reduce((sum, [rule, count]) => (named.includes(rule) ? sum : sum + count), 0),
    faults: nemesis.strikes.length,
    faultsByKind: countBy(nemesis.strikes.map(({ kind }) => kind)),
    skippedFaults: Object.fromEntries(reasons),
    redriven: operator.redriven,
    kills: company.kills + company.suicides,
    unexpectedExits: company.unexpected.length,
    counts: found.counts,
    recoveryMs: recoveryOf(found.recovery),
    slowestEndMs: company.slowestEndMs,
    memorySlope: gauge.memorySlope(),
    runnerDelayMs: Math.round(delay.percentile(99) / 1e6),
    seconds: Math.round(loadSeconds * 10) / 10,
    checkSeconds: found.seconds,
    versions: { twinbox: version, node: process.version, postgres: await gauge.serverVersion() },
    problems,
  }
  delay.disable()
  const title = `twinbox soak over ${run.broker}, seed ${seed}: ${result.published} messages, ${result.faults} faults, ${result.ok ? 'all well' : 'VIOLATIONS'}`
  writeFileSync(join(folder, 'timeline.svg'), drawTimeline(title, gauge.samples, nemesis.strikes, startedAt))
  writeFileSync(join(folder, 'report.json'), `${JSON.stringify(result, null, 1)}\n`)
  writeFileSync(
    join(folder, 'report.txt'),
    [
      renderResult(result),
      renderViolations(found.violations),
      ...nemesis.strikes.map((strike) => JSON.stringify(strike)),
    ].join('\n'),
  )
  return result
}

/** Where the report goes, or a temporary folder that is kept only if there is something to look into. */
function openFolder(report: string | undefined): string {
  if (report === undefined) return mkdtempSync(join(tmpdir(), 'twinbox-soak-'))
  mkdirSync(report, { recursive: true })
  return resolve(report)
}

function secondsOf({ minutes, messages, rate }: SoakOptions): number {
  if (minutes !== undefined) return Math.round(minutes * 60)
  return messages === undefined ? 300 : Math.max(10, Math.round(messages / rate))
}

/** The server needs a moment to notice that a client has gone. */
async function connectionsLeft(database: Database, run: Run): Promise<number> {
  for (let tries = 0; ; tries++) {
    const [left] = await database.query(soakSql(run.schema).connections, { prefix: `${run.name}.` })
    if (left!.count === 0 || tries === 50) return left!.count
    await sleep(100)
  }
}

function countBy<Name extends string>(names: readonly Name[]): Partial<Record<Name, number>> {
  const counts: Partial<Record<Name, number>> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}
