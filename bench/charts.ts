import type { Reported } from './report.ts'
import { axes, measures } from './scenarios/growth.ts'

/** The pictures of the report, drawn from its figures. */

/** Those in which somebody else does the same work. */
const compared = [
  'publish-bulk',
  'publish-single',
  'relay-null',
  'relay-rabbitmq',
  'relay-kafka',
  'claim',
  'handle-tx',
  'pipeline',
]

export const number = (value: number): string => Math.round(value).toLocaleString('en-US')

const colours: Readonly<Record<string, string>> = { twinbox: '#2563eb', bare: '#9ca3af' }

/** Horizontal bars, each scenario on a scale of its own. */
export function rateChart(reported: readonly Reported[]): string {
  const shown = reported.filter(({ scenario, valid }) => valid && compared.includes(scenario))
  const rowHeight = 16
  const width = 760
  const left = 210
  const parts: string[] = []
  let y = 34
  for (const { scenario, rates } of shown) {
    parts.push(`<text x="8" y="${y + 12}" font-weight="bold">${scenario}</text>`)
    const most = Math.max(...Object.values(rates))
    for (const [name, rate] of Object.entries(rates)) {
      const length = Math.max(1, Math.round((rate / most) * (width - left - 110)))
      const colour = colours[name] ?? (name.startsWith('twinbox') ? '#60a5fa' : '#d97706')
      parts.push(
        `<text x="${left - 8}" y="${y + 12}" text-anchor="end" fill="#6b7280">${name}</text>`,
        `<rect x="${left}" y="${y + 2}" width="${length}" height="${rowHeight - 4}" fill="${colour}"/>`,
        `<text x="${left + length + 6}" y="${y + 12}" fill="#6b7280">${number(rate)}</text>`,
      )
      y += rowHeight
    }
    y += 10
  }
  return drawing(width, y, 'Messages per second (each scenario on its own scale)', parts)
}

/** What a message costs the server as there is more and more of something: a column of bars for each measure. */
export function growthChart(reported: readonly Reported[]): string {
  const figures = reported.find(({ scenario, valid }) => scenario === 'growth' && valid)?.figures ?? {}
  const rowHeight = 16
  const width = 760
  const left = 130
  const column = (width - left) / measures.length
  const parts = measures.map(
    (measure, nth) =>
      `<text x="${left + nth * column}" y="42" font-weight="bold">${measure === 'buffers' ? measure : `${measure} messages`}</text>`,
  )
  let y = 50
  for (const { steps } of Object.values(axes)) {
    // In the order in which it grows, which is not that in which it is judged.
    for (const step of growing(steps)) {
      parts.push(`<text x="${left - 8}" y="${y + 12}" text-anchor="end" fill="#6b7280">${step}</text>`)
      for (const [nth, measure] of measures.entries()) {
        const valueOf = (name: string): number => figures[name]?.extra[measure] ?? 0
        const most = Math.max(...steps.map(valueOf)) || 1
        const length = Math.max(1, Math.round((valueOf(step) / most) * (column - 60)))
        const x = left + nth * column
        parts.push(
          `<rect x="${x}" y="${y + 2}" width="${length}" height="${rowHeight - 4}" fill="${nth === 0 ? '#2563eb' : '#60a5fa'}"/>`,
          `<text x="${x + length + 6}" y="${y + 12}" fill="#6b7280">${valueOf(step).toFixed(1)}</text>`,
        )
      }
      y += rowHeight
    }
    y += 10
  }
  return drawing(width, y, 'What a message costs the server (each group on its own scale)', parts)
}

const growing = (steps: readonly string[]): readonly string[] =>
  steps.at(-1)!.startsWith('one ') ? steps.toReversed() : steps

const drawing = (
  width: number,
  height: number,
  title: string,
  parts: readonly string[],
): string => `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="11">
<rect width="${width}" height="${height}" fill="#ffffff"/>
<text x="8" y="20" font-size="14" font-weight="bold">${title}</text>
${parts.join('\n')}
</svg>
`
