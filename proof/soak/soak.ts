import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { version } from '../../src/base/package.ts'
import { explain, remarkLines, say } from '../../src/terminal/output.ts'
import { perform } from '../stage/performance.ts'
import { brokerUrlOf, chooseServer, type Place } from '../stage/scratch.ts'
import type { View } from '../stage/view.ts'
import { createCrew, type Cast } from './company.ts'
import { conduct, otherViolations, type Scene, type Stage } from './conduct.ts'
import { maxAttempts } from './message.ts'
import { missingFaults } from './nemesis.ts'
import { makePlan, readPlan, type Kind, type Plan } from './plan.ts'
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
const standstillMs = 90_000

/** Short, so that a message that fails is not what a run waits for in the end. */
const retries = { maxAttempts, backoffMsMin: 50, backoffMsMax: 1000 } as const

/** Those of relays by their number. A stop is shorter than the patience of who asks for it. */
const cast: Cast = {
  strength: { receiver: 2, relay: 2, claimer: 3, publisher: 2 },
  options: (role, number) => ({
    stopTimeoutMs: 8000,
    ...(role === 'claimer' && { ...retries, concurrency: 8, onDead: 'skip', handleTimeoutMs: 4000 }),
    ...(role === 'relay' && {
      ...retries,
      ...(number === 1 ? { onDead: 'park', strictSend: true } : { onDead: 'skip' }),
    }),
  }),
  network: true,
  replaces: true,
  closely: false,
}

/** A run with all faults that there are, by a plan, for as long as is wanted. */
export async function runSoak(asked: SoakOptions): Promise<0 | 1> {
  brokerUrlOf(asked)
  const options = chooseServer('soak', asked)
  const given = options.schedule === undefined ? null : readPlan(options.schedule)
  const folder = openFolder(options.report)
  const crew = createCrew()
  let keep = options.report !== undefined
  try {
    return await perform(
      'soak',
      crew,
      (stage) => play(options, given, { crew, folder, ...stage }),
      (result, view) => {
        keep ||= !result.ok
        if (options.json === true && !result.ok) remarkLines(result.problems.join('\n'))
        if (options.json === true) say(JSON.stringify(result))
        else explain(renderResult(result).trimEnd())
        if (keep) view.say(`The report, the schedule, the timeline and the histories are in ${folder}`)
        return result.ok ? 0 : 1
      },
    )
  } finally {
    if (!keep) rmSync(folder, { recursive: true, force: true })
  }
}

async function play(options: SoakOptions, given: Plan | null, stage: Stage): Promise<SoakResult> {
  const { view, folder } = stage
  const seed = given?.seed ?? options.seed
  const seconds = given?.seconds ?? secondsOf(options)
  const messages = options.messages ?? Math.round(seconds * options.rate)
  const restartBroker = options.restartBroker ?? null
  const oneInDies = options.faults === 0 ? 0 : Math.max(2000, Math.round(messages / (seconds / 60)))
  let skipped = new Map<Kind, string>()
  const outcome = await conduct(
    {
      ...{ what: 'soak', place: options, cast, restartBroker, sampleMs: 1000, standstillMs },
      load: { seed, rate: options.rate / 2, webhooks: null, keys: options.keys, oneInDies },
      act: async (scene) => {
        const { broker, database } = options
        skipped = missingFaults({ ...scene, restartBroker, broker, ownServer: database === undefined })
        const count = options.faults ?? Math.round(seconds / secondsPerFault)
        const plan = given ?? makePlan(seed, seconds, count, skipped)
        writeFileSync(join(folder, 'schedule.json'), `${JSON.stringify(plan, null, 1)}\n`)
        for (const [kind, why] of skipped) view.say(`No ${kind}: ${why}.`)
        view.say(
          `${plan.faults.length} faults in ${seconds} s, ${messages} messages at ${options.rate}/s, seed ${seed}`,
        )
        await suffer(scene, view, { plan, skipped, messages, rate: options.rate, atLeast: options.messages })
      },
    },
    stage,
  )
  const { run, company, nemesis, gauge, operator, findings, problems, startedAt } = outcome
  const { counts, broken } = findings
  const result: SoakResult = {
    ok: problems.length === 0,
    broker: run.broker,
    seed,
    published: counts.published,
    handled: counts.handled,
    deadLetters: counts.dead,
    lost: broken.lost,
    ghosts: broken.ghosts,
    altered: broken.altered,
    duplicateEffects: broken.duplicateEffects,
    orderViolations: broken.orderViolations,
    zombieWrites: broken.zombieWrites,
    otherViolations: otherViolations(findings),
    faults: nemesis.strikes.length,
    faultsByKind: countBy(nemesis.strikes.map(({ kind }) => kind)),
    skippedFaults: Object.fromEntries(skipped),
    redriven: operator.redriven,
    kills: company.kills + company.suicides,
    deathsFoundBy: company.deaths,
    unexpectedExits: company.unexpected.length,
    counts,
    recoveryMs: recoveryOf(findings.recovery),
    slowestEndMs: company.slowestEndMs,
    memorySlope: gauge.memorySlope(),
    runnerDelayMs: outcome.delayMs,
    seconds: Math.round(outcome.seconds * 10) / 10,
    checkSeconds: findings.seconds,
    versions: { twinbox: version, node: process.version, postgres: await gauge.serverVersion() },
    problems,
  }
  const title = `twinbox soak over ${run.broker}, seed ${seed}: ${result.published} messages, ${result.faults} faults, ${result.ok ? 'all well' : 'VIOLATIONS'}`
  writeFileSync(join(folder, 'timeline.svg'), drawTimeline(title, gauge.samples, nemesis.strikes, startedAt))
  writeFileSync(join(folder, 'report.json'), `${JSON.stringify(result, null, 1)}\n`)
  writeFileSync(
    join(folder, 'report.txt'),
    [
      renderResult(result),
      renderViolations(findings.violations),
      ...nemesis.strikes.map((strike) => JSON.stringify(strike)),
    ].join('\n'),
  )
  return result
}

interface Ordeal {
  readonly plan: Plan
  readonly skipped: ReadonlyMap<Kind, string>
  /** What is shown as all, and how many there have to be at least, if that was asked for. */
  readonly messages: number
  readonly atLeast: number | undefined
  /** Messages per second. */
  readonly rate: number
}

/** Lets the faults come when they are due, for as long as the plan says, and until enough has been published. */
async function suffer({ company, nemesis, gauge }: Scene, view: View, ordeal: Ordeal): Promise<void> {
  const { plan, skipped, messages, atLeast = 0, rate } = ordeal
  const trouble = (): string => gauge.trouble(plan.faults.length)
  const underWay = (): string => `under way: ${nemesis.underWay.join('; ') || 'nothing'}`
  view.show(messages, () => [trouble(), underWay(), ...gauge.lines()], trouble)
  const startedAt = Date.now()
  const coming = plan.faults.filter(({ kind }) => !skipped.has(kind))
  for (; ; await sleep(100)) {
    const passed = Date.now() - startedAt
    while (coming[0] !== undefined && coming[0].at <= passed) void nemesis.strike(coming.shift()!)
    await gauge.look()
    view.update(gauge.published, gauge.handled)
    if (passed >= plan.seconds * 1000 && gauge.published >= atLeast) {
      const exact = await gauge.exact()
      if (exact !== null && exact.published >= atLeast) return
    }
    company.setRate(gauge.isBehind(rate) ? rate / 5 : rate)
    if (gauge.stoodStillMs > standstillMs) return
  }
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

function countBy<Name extends string>(names: readonly Name[]): Partial<Record<Name, number>> {
  const counts: Partial<Record<Name, number>> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}
