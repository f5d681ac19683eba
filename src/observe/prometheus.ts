import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import { openDatabase, type DatabaseInput } from '../database/database.ts'
import type { OnEvent } from '../base/events.ts'
import { gaugeNames, readGauges } from './gauges.ts'
import { buckets, measure, metrics, boundedLabels, type Measurement, type MetricName } from './metrics.ts'
import { refuseUnknown } from '../base/options.ts'

export interface PrometheusOptions {
  /** Where depth, lag, workers and the like are read when somebody scrapes. @default none: only what this process does */
  readonly database?: DatabaseInput | undefined
  /** @default 'twinbox' */
  readonly schema?: string | undefined
  /** A registry of your own, to be exposed together with your other metrics. @default a new one */
  readonly registry?: Registry | undefined
}

export interface PrometheusMetrics {
  /** Give it to workers as `onEvent`. */
  readonly onEvent: OnEvent
  readonly contentType: string
  /** The metrics in Prometheus' text format. Reads the database at most once in five seconds, however many scrape. */
  text(): Promise<string>
  /** Closes the connection to the database, if there is one. */
  close(): Promise<void>
}

const freshMs = 5000

/**
 * Metrics for Prometheus, through prom-client (`npm install prom-client`): counters and histograms of what the workers
 * of this process do, gauges of what the database holds. Their names are listed in `metrics.ts`, with what they mean.
 * @throws OptionError
 */
export function prometheus(options: PrometheusOptions = {}): PrometheusMetrics {
  refuseUnknown('prometheus', options, ['database', 'schema', 'registry'])
  const { database, owned } =
    options.database === undefined
      ? { database: null, owned: false }
      : openDatabase(options.database, { schema: options.schema, poolSize: 1 })
  const registry = options.registry ?? new Registry()
  const topicLabel = boundedLabels()
  const gauges = new Map<MetricName, Gauge>()
  const add = new Map<MetricName, (measurement: Measurement) => void>()
  for (const name of Object.keys(metrics) as MetricName[]) {
    const { kind, help, labels } = metrics[name]
    const about = { name, help, labelNames: [...labels], registers: [registry] }
    if (kind === 'gauge') {
      if (database !== null) gauges.set(name, new Gauge(about))
    } else if (kind === 'counter') {
      const counter = new Counter(about)
      add.set(name, (measured) => counter.inc(measured.labels, measured.value))
    } else {
      const histogram = new Histogram({ ...about, buckets: [...buckets] })
      add.set(name, (measured) => histogram.observe(measured.labels, measured.value))
    }
  }

  let readAt = -Infinity
  let reading: Promise<void> | null = null
  const refresh = async (): Promise<void> => {
    if (database === null || performance.now() - readAt < freshMs) return
    const found = await readGauges(database)
    readAt = performance.now()
    for (const name of gaugeNames) gauges.get(name)?.reset()
    for (const { name, value, labels } of found) gauges.get(name)?.set(labels, value)
  }

  return {
    onEvent(event) {
      for (const measured of measure(event, topicLabel)) add.get(measured.name)!(measured)
    },
    contentType: registry.contentType,
    async text() {
      reading ??= refresh().finally(() => (reading = null))
      await reading
      return registry.metrics()
    },
    async close() {
      if (owned) await database?.close()
    },
  }
}
