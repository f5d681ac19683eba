import type { Strike } from './nemesis.ts'

/** How things stood at one moment. */
export interface Sample {
  /** Since the start of the load, in seconds. */
  readonly at: number
  /** Since the sample before, per second. */
  readonly published: number
  readonly handled: number
  /** Age of the oldest message that waits, in seconds. */
  readonly lag: number
  readonly backlog: number
  /** Since the sample before. */
  readonly takeovers: number
}

const width = 1200
const left = 150
const plotWidth = width - left - 20
const chartHeight = 120
const rowHeight = 14

/** A picture of a run: throughput, lag and takeovers above, faults by kind below, over the same time. */
export function drawTimeline(
  title: string,
  samples: readonly Sample[],
  strikes: readonly Strike[],
  startedAt: number,
): string {
  const end = Math.max(1, samples.at(-1)?.at ?? 1)
  const x = (second: number): number => left + (Math.min(Math.max(second, 0), end) / end) * plotWidth
  const charts = [
    { name: 'published/s', colour: '#3b6fb5', of: (sample: Sample) => sample.published },
    { name: 'handled/s', colour: '#3a9150', of: (sample: Sample) => sample.handled },
    { name: 'oldest waiting, s', colour: '#b5533b', of: (sample: Sample) => sample.lag },
    { name: 'takeovers', colour: '#7a4fa3', of: (sample: Sample) => sample.takeovers },
  ]
  const parts: string[] = []
  let y = 40
  for (const { name, colour, of } of charts) {
    const max = Math.max(1, ...samples.map(of))
    const bottom = y + chartHeight
    const points = samples.map(
      (sample) => `${x(sample.at).toFixed(1)},${(bottom - (of(sample) / max) * chartHeight).toFixed(1)}`,
    )
    parts.push(
      text(10, y + 14, name),
      text(10, y + 30, `max ${Math.round(max * 10) / 10}`, '#777'),
      `<line x1="${left}" y1="${bottom}" x2="${width - 20}" y2="${bottom}" stroke="#ccc"/>`,
      `<polyline fill="none" stroke="${colour}" stroke-width="1.2" points="${points.join(' ')}"/>`,
    )
    y = bottom + 16
  }
  const top = y
  for (const kind of [...new Set(strikes.map((strike) => strike.kind))].toSorted()) {
    y += rowHeight
    parts.push(text(10, y - 3, kind))
    for (const { at, healedAt, target } of strikes.filter((strike) => strike.kind === kind)) {
      const from = x((at - startedAt) / 1000)
      const to = x(((healedAt ?? at) - startedAt) / 1000)
      parts.push(
        `<rect x="${from.toFixed(1)}" y="${y - rowHeight + 3}" width="${Math.max(2, to - from).toFixed(1)}" height="${rowHeight - 4}" fill="#c0392b" fill-opacity="0.75"><title>${escape(`${kind} ${target}`)}</title></rect>`,
      )
    }
  }
  for (let second = 0; second <= end; second += tick(end)) {
    parts.push(
      `<line x1="${x(second)}" y1="30" x2="${x(second)}" y2="${y}" stroke="#eee"/>`,
      text(x(second) - 8, y + 16, `${second} s`, '#777'),
    )
  }
  const height = Math.max(y, top) + 30
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
${text(10, 20, title, '#000')}
${parts.join('\n')}
</svg>
`
}

/** A round number of seconds, so that there are about ten marks. */
const tick = (end: number): number =>
  [1, 5, 10, 30, 60, 120, 300, 600, 1800].find((step) => end / step <= 12) ?? 3600

const text = (x: number, y: number, said: string, colour = '#333'): string =>
  `<text x="${Math.round(x)}" y="${y}" fill="${colour}">${escape(said)}</text>`

const escape = (said: string): string =>
  said.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
