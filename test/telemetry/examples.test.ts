import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { metrics } from '../../src/observe/metrics.ts'
import { prometheus } from '../../src/observe/prometheus.ts'
import { createTestDatabase } from '../support/postgres.ts'

/** A dashboard or an alert about a metric that nobody exposes looks well for ever. */
const read = (file: string): string => readFileSync(`examples/${file}`, 'utf8')

/** Each series that is named, with the labels that are asked of it. */
function named(text: string): { name: string; labels: string[] }[] {
  return [...text.matchAll(/\b(twinbox_[a-z_]+)(?:\{([^}]*)\})?/g)].map(([, name, selector = '']) => ({
    name: name!,
    labels: [...selector.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)].map(([, label]) => label!),
  }))
}

interface Dashboard {
  readonly panels: readonly {
    readonly title: string
    readonly targets: readonly { readonly expr: string }[]
  }[]
}

const dashboard = (JSON.parse(read('grafana/twinbox.json')) as Dashboard).panels.flatMap(({ targets }) =>
  targets.map(({ expr }) => expr),
)
// What stands in an annotation may name a metric as well.
const alerts = [read('prometheus/alerts.yml')]

test.each([
  { example: 'the dashboard', expressions: dashboard },
  { example: 'the alert rules', expressions: alerts },
])('every metric and label of $example is exposed', async ({ expressions }) => {
  const database = await createTestDatabase()
  const scraped = prometheus({ database: database.url })
  try {
    const text = await scraped.text()
    const exposed = new Map(
      [...text.matchAll(/^# TYPE (\w+) (\w+)$/gm)].map(([, name, type]) => [name!, type!]),
    )
    expect(exposed.size).toBe(Object.keys(metrics).length)
    const wrong = expressions.flatMap(named).filter(({ name, labels }) => {
      const base = exposed.has(name) ? name : name.replace(/_(bucket|sum|count)$/, '')
      if (base !== name && exposed.get(base) !== 'histogram') return true
      const known: readonly string[] = metrics[base as keyof typeof metrics]?.labels ?? []
      return !exposed.has(base) || labels.some((label) => !known.includes(label))
    })
    expect(wrong).toEqual([])
    expect(expressions.flatMap(named).length).toBeGreaterThan(12)
  } finally {
    await scraped.close()
    await database.drop()
  }
})

test('every metric is on the dashboard', () => {
  const shown = new Set(dashboard.flatMap(named).map(({ name }) => name.replace(/_bucket$/, '')))
  expect(Object.keys(metrics).filter((name) => !shown.has(name))).toEqual([])
})
