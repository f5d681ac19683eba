import { rounded, table, total } from '../figures.ts'
import type { Outcome, Stage } from '../scenario.ts'
import { Grounds } from './grounds.ts'
import { runLap, type Lap, type LapHooks, type Runner } from './lap.ts'

/** The laps of each runner, one per round. */
export type Laps = ReadonlyMap<string, readonly Lap[]>

export interface Ratio {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** One thing that must hold. */
export interface Goal {
  /** In words, such as "at least 2 x the fastest peer". */
  readonly says: string
  readonly met: boolean
  readonly found: Ratio
}

export interface Race {
  readonly runners: readonly Runner[]
  readonly rounds: number
  readonly only?: readonly string[] | undefined
  readonly hooks?: (runner: Runner) => LapHooks
  /** In turn of the rounds, what was found is held against the goals; the first one's ratio is the scenario's. */
  readonly goals: (laps: Laps) => readonly Goal[]
  /** Columns beside the common ones. */
  readonly extras?: readonly string[]
  /** What a reader has to know: settings, bounds. */
  readonly remarks?: readonly string[]
  /** What keeps a goal from being met, told if one is not: with the figures of this run, or without any. */
  readonly bound?: string | ((laps: Laps) => string)
}

export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

const rateOf = (lap: Lap): number => lap.rate

/** One against another, round by round: what slows the machine down in one round slows both. */
export function ratio(laps: Laps, one: string, other: string, by: (lap: Lap) => number = rateOf): Ratio {
  return ratioOf(pairs(laps, one, other).map(([a, b]) => by(a) / by(b)))
}

/** Against the best of the others in that round. */
export function ratioToFastest(laps: Laps, one: string, others: readonly string[]): Ratio {
  const rounds = laps.get(one)!.map((lap, round) => {
    const fastest = Math.max(...others.map((other) => laps.get(other)![round]!.rate))
    return lap.rate / fastest
  })
  return ratioOf(rounds)
}

/** Against the others one after the other in that round, each with all messages. */
export function ratioToSum(laps: Laps, one: string, others: readonly string[]): Ratio {
  const rounds = laps
    .get(one)!
    .map((lap, round) => lap.rate * total(others.map((other) => 1 / laps.get(other)![round]!.rate)))
  return ratioOf(rounds)
}

function pairs(laps: Laps, one: string, other: string): [Lap, Lap][] {
  return laps.get(one)!.map((lap, round) => [lap, laps.get(other)![round]!])
}

export const ratioOf = (values: readonly number[]): Ratio => ({
  median: rounded(median(values), 3),
  min: rounded(Math.min(...values), 3),
  max: rounded(Math.max(...values), 3),
})

export const atLeast = (says: string, found: Ratio, bound: number): Goal => ({
  says: `${says} at least ${bound} x`,
  met: found.median >= bound,
  found,
})

export const atMost = (says: string, found: Ratio, bound: number): Goal => ({
  says: `${says} at most ${bound} x`,
  met: found.median <= bound,
  found,
})

/** What a message takes of the processors, for a text about what bounds a race. */
export function costs(laps: Laps, name: string): string {
  const each = laps.get(name) ?? []
  const server = each.map(({ serverUs }) => serverUs ?? NaN)
  return `${Math.round(median(server))} us of the server and ${Math.round(median(each.map(({ clientUs }) => clientUs)))} us of the client`
}

/** What was reached once is not to be lost: a twentieth is noise. */
export const lessNoise = (reached: number): number => rounded(reached * 0.95, 3)
export const plusNoise = (reached: number): number => rounded(reached * 1.05, 3)

/** Runs the rounds, each in another order, and tells what came of it. */
export async function runRace(stage: Stage, whole: Race): Promise<Outcome> {
  const race = whole.only === undefined ? whole : narrowed(whole, whole.only)
  const grounds = new Grounds(stage.scratch)
  stage.cleanUp.push(() => grounds.dropAll())
  const laps = new Map<string, Lap[]>(race.runners.map(({ name }) => [name, []]))
  for (let round = 0; round < race.rounds; round++) {
    const turn = round % race.runners.length
    for (const runner of [...race.runners.slice(turn), ...race.runners.slice(0, turn)]) {
      const lap = await runLap(stage, grounds, runner, race.hooks?.(runner))
      laps.get(runner.name)!.push(lap)
      const problems = lap.problems.length === 0 ? '' : ` INVALID: ${lap.problems.join('; ')}`
      stage.say(`round ${round + 1}/${race.rounds} ${runner.name}: ${Math.round(lap.rate)}/s${problems}`)
    }
  }
  return conclude(race, laps)
}

/** @throws if nobody would run */
function narrowed(race: Race, only: readonly string[]): Race {
  const runners = race.runners.filter(({ name }) => only.includes(name))
  if (runners.length === 0) {
    throw new Error(
      `Nobody is called ${only.join(', ')}: ${race.runners.map(({ name }) => name).join(', ')} are.`,
    )
  }
  return { ...race, runners, goals: () => [] }
}

function conclude(race: Race, laps: Laps): Outcome {
  const problems = [...laps.values()].flatMap((each) => each.flatMap((lap) => lap.problems))
  const valid = problems.length === 0
  const goals = race.goals(laps)
  const bound =
    goals.every(({ met }) => met) || typeof race.bound !== 'function' ? race.bound : race.bound(laps)
  const bounded = bound !== undefined && goals.some(({ met }) => !met)
  const extras = race.extras ?? []
  const medians = [...laps].map(([name, each]) => ({ name, ...figuresOf(each, extras) }))
  const busy = [...laps.values()].some((each) => each.some(({ others, rate }) => others > rate / 100 + 50))
  return {
    text: [
      table(
        [
          '',
          'per s',
          'per CPU s',
          'client us',
          'server us',
          'WAL B',
          'commits',
          'tuples',
          'p50 ms',
          'p95 ms',
          'p99 ms',
          ...extras,
        ],
        medians.map(({ name, rate, perCpuS, clientUs, serverUs, walBytes, commits, tuples, took, extra }) => [
          valid ? name : `${name} (invalid)`,
          rate,
          perCpuS,
          clientUs,
          serverUs,
          walBytes,
          commits,
          tuples,
          took.p50,
          took.p95,
          took.p99,
          ...extras.map((column) => extra[column]),
        ]),
      ),
      'Medians of the rounds; us, WAL bytes, commits and tuples are per message.',
      ...goals.map(
        ({ says, met, found }) =>
          `${met ? 'met' : 'NOT MET'}: ${says}; found ${found.median} (${found.min} to ${found.max})`,
      ),
      ...(race.remarks ?? []),
      ...(bounded ? [`What bounds it: ${bound as string}`] : []),
      ...(busy ? ['Others used this server meanwhile: WAL and times are not of the laps alone.'] : []),
      ...(valid ? [] : ['*invalid*', ...problems]),
    ].join('\n'),
    result: {
      valid,
      met: valid && goals.every(({ met }) => met),
      goal: goals.map(({ says }) => says).join('; '),
      rates: Object.fromEntries(medians.map(({ name, rate }) => [name, rate])),
      ratio: goals[0]?.found,
      goals,
      ...(bounded ? { bound } : {}),
      remarks: race.remarks ?? [],
      figures: Object.fromEntries(medians.map(({ name, ...figures }) => [name, figures])),
      rounds: race.rounds,
      busy,
      problems,
    },
  }
}

function figuresOf(laps: readonly Lap[], extras: readonly string[]) {
  const of = (value: (lap: Lap) => number, digits = 0): number => rounded(median(laps.map(value)), digits)
  const known = (value: (lap: Lap) => number | null, digits = 0): number | null =>
    laps.some((lap) => value(lap) === null) ? null : of((lap) => value(lap)!, digits)
  return {
    rate: of(rateOf),
    perCpuS: known(({ perCpuS }) => perCpuS),
    clientUs: of(({ clientUs }) => clientUs, 1),
    serverUs: known(({ serverUs }) => serverUs, 1),
    walBytes: of(({ walBytes }) => walBytes),
    commits: of(({ commits }) => commits, 3),
    tuples: of(({ tuples }) => tuples, 2),
    took: {
      p50: known(({ took }) => took.p50, 1),
      p95: known(({ took }) => took.p95, 1),
      p99: known(({ took }) => took.p99, 1),
    },
    extra: Object.fromEntries(
      extras.map((column) => [column, known(({ extra }) => extra[column] ?? null, 2)]),
    ),
  }
}
