import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { format, resolveConfig } from 'prettier'
import { growthChart, number, rateChart } from './charts.ts'
import type { Goal } from './race/race.ts'
import type { Machine } from './scratch.ts'

/** What a scenario said in its line of JSON, as far as the report shows it. */
export interface Reported {
  readonly scenario: string
  readonly valid: boolean
  readonly met?: boolean
  readonly goals: readonly Goal[]
  readonly rates: Readonly<Record<string, number>>
  /** By the names of `rates`. */
  readonly figures: Readonly<
    Record<
      string,
      {
        readonly took: { readonly p50: number | null }
        readonly extra: Readonly<Record<string, number | null>>
      }
    >
  >
  readonly bound?: string
  readonly busy?: boolean
  /** How long all of it took. */
  readonly seconds?: number
  readonly settings: Readonly<Record<string, unknown>>
  readonly machine: Machine
}

/** A scenario that could not be run, and why. */
export interface LeftOut {
  readonly scenario: string
  readonly leftOut: string
}

const results = 'bench/results.json'
const page = 'docs/performance.md'
const begin = '<!-- bench:begin -->'
const end = '<!-- bench:end -->'

const peers = ['graphile-worker', 'pg-boss', 'pg-transactional-outbox']

async function writeResults(reported: readonly Reported[], leftOut: readonly LeftOut[]): Promise<void> {
  const text = JSON.stringify([...reported, ...leftOut])
  const config = await resolveConfig(results)
  writeFileSync(results, await format(text, { ...config, parser: 'json' }))
}

/** What the last report has found. */
export const readResults = (): Reported[] =>
  (JSON.parse(readFileSync(results, 'utf8')) as (Reported | LeftOut)[]).filter((row) => 'rates' in row)

/**
 * Writes down what there is so far, the charts, and what stands between two marks of the page on performance: an hour of
 * measuring should not be lost with its last minute.
 */
export async function writeReport(
  reported: readonly Reported[],
  leftOut: readonly LeftOut[],
  command: string,
): Promise<void> {
  await writeResults(reported, leftOut)
  if (reported.length === 0) return
  writeFileSync('bench/chart.svg', rateChart(reported))
  writeFileSync('bench/growth.svg', growthChart(reported))
  const section = markdown(reported, leftOut, command)
  if (!existsSync(page)) return
  const [before, rest] = readFileSync(page, 'utf8').split(begin)
  const after = rest?.split(end)[1]
  if (before === undefined || after === undefined) throw new Error(`${page} has no ${begin} … ${end}.`)
  const text = `${before}${begin}\n\n${section}\n\n${end}${after}`
  const config = await resolveConfig(page)
  writeFileSync(page, await format(text, { ...config, parser: 'markdown' }))
}

function markdown(reported: readonly Reported[], leftOut: readonly LeftOut[], command: string): string {
  const machine = reported[0]!.machine
  const [commit, ...others] = [...new Set(reported.map((row) => row.machine.commit))].map((of) => ({
    of,
    names: reported.flatMap((row) => (row.machine.commit === of ? [`\`${row.scenario}\``] : [])),
  }))
  const commits = [
    `commit ${commit!.of}`,
    ...others.map(({ of, names }) => `of ${names.join(', ')} ${of}`),
  ].join(', ')
  const rows = reported.map(({ scenario, valid, rates, goals }) => [
    `\`${scenario}\``,
    Object.entries(rates)
      .map(([name, rate]) => `${name} ${number(rate)}`)
      .join('<br>'),
    valid
      ? goals
          .map(
            ({ says, met, found }) =>
              `${met ? '✓' : '✗'} ${says}: **${found.median}** (${found.min}–${found.max})`,
          )
          .join('<br>')
      : '*invalid*',
  ])
  const better = reported.flatMap(({ scenario, rates, figures }) => {
    const p50 = (name: string): number => figures[name]?.took.p50 ?? Infinity
    if (scenario === 'latency')
      return p50('graphile-worker') < p50('twinbox') ? ['graphile-worker in `latency`'] : []
    return peers.flatMap((peer) =>
      (rates[peer] ?? 0) > (rates['twinbox'] ?? Infinity) ? [`${peer} in \`${scenario}\``] : [],
    )
  })
  const unmet = reported.filter(({ goals }) => goals.some(({ met }) => !met))
  const settings = reported.map(({ scenario, seconds, settings: of }) => {
    const { rounds, messages, processes, concurrency, batchSize } = of as Record<string, number>
    return `${scenario} ${number(messages ?? 0)} × ${rounds} (${processes} processes × ${concurrency}, batches of ${batchSize}${seconds === undefined ? '' : `; took ${Math.ceil(seconds / 60)} min`})`
  })
  return [
    `Measured by \`${command}\` on ${machine.cores} × ${machine.cpu} for everything, the server and the brokers included; ` +
      `Node ${machine.node}, Postgres ${machine.postgres}, ${commits}. Each row is one run: all in turns, in rotated ` +
      'order, on the same Postgres, each in a fresh database, every message accounted for. A lap begins when everybody works: starting is no part of it. A ratio is the median of the ' +
      'rounds, with the lowest and the highest. Absolute numbers are this machine’s; the ratios are what to look at.',
    '![Messages per second, side by side](../bench/chart.svg)',
    ...(reported.some(({ scenario }) => scenario === 'growth')
      ? ['![Buffers and statements per message as there is more and more](../bench/growth.svg)']
      : []),
    [
      // Padded to the longest cell, its source could not be read.
      '<!-- prettier-ignore -->',
      '| scenario | messages/s | goal: found |',
      '| --- | --- | --- |',
      ...rows.map((row) => `| ${row.join(' | ')} |`),
    ].join('\n'),
    better.length === 0
      ? 'No peer was faster in this run.'
      : `**A peer was faster in this run:** ${better.join(', ')}.`,
    ...(unmet.length === 0
      ? []
      : [
          `**Not reached**, and what bounds it:\n\n${unmet
            .map(
              ({ scenario, bound }) =>
                `- \`${scenario}\`: ${bound ?? 'see the table; the figures differ from round to round on a busy machine.'}`,
            )
            .join('\n')}`,
        ]),
    ...(leftOut.length === 0
      ? []
      : [`Left out: ${leftOut.map(({ scenario, leftOut: why }) => `\`${scenario}\` (${why})`).join(', ')}.`]),
    ...(reported.some(({ busy }) => busy === true)
      ? ['Others used this server or machine meanwhile, so that absolute rates are too low.']
      : []),
    `Messages × rounds: ${settings.join('; ')}.`,
  ].join('\n\n')
}
