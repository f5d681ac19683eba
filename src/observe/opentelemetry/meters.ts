import { metrics as global, type Attributes, type Meter, type MeterProvider } from '@opentelemetry/api'
import type { OnEvent } from '../../base/events.ts'
import {
  buckets,
  measure,
  metrics,
  boundedLabels,
  type Label,
  type Labels,
  type MetricName,
} from '../metrics.ts'
import { version } from '../../base/package.ts'

/** What the messaging conventions have a name for goes by it, with the attributes that they ask for. */
const conventional: Partial<Record<MetricName, { readonly name: string; readonly fixed: Attributes }>> = {
  twinbox_sent_messages_total: {
    name: 'messaging.client.sent.messages',
    fixed: { 'messaging.operation.name': 'send' },
  },
  twinbox_send_duration_seconds: {
    name: 'messaging.client.operation.duration',
    fixed: { 'messaging.operation.name': 'send', 'messaging.operation.type': 'send' },
  },
  twinbox_received_messages_total: {
    name: 'messaging.client.consumed.messages',
    fixed: { 'messaging.operation.name': 'receive' },
  },
  twinbox_receive_duration_seconds: {
    name: 'messaging.client.operation.duration',
    fixed: { 'messaging.operation.name': 'receive', 'messaging.operation.type': 'receive' },
  },
  twinbox_handle_duration_seconds: {
    name: 'messaging.process.duration',
    fixed: { 'messaging.operation.name': 'handle', 'messaging.system': 'twinbox' },
  },
}

const attributes: Partial<Record<Label, string>> = {
  broker: 'messaging.system',
  consumer: 'messaging.consumer.group.name',
  topic: 'messaging.destination.name',
}

export const meterOf = (provider: MeterProvider | undefined): Meter =>
  (provider ?? global).getMeter('twinbox', version)

export function toAttributes(name: MetricName, labels: Labels): Attributes {
  const own = Object.entries(labels).map(([label, value]) => [
    attributes[label as Label] ?? `twinbox.${label}`,
    value,
  ])
  return { ...conventional[name]?.fixed, ...(Object.fromEntries(own) as Attributes) }
}

/** `twinbox_lag_seconds` as `twinbox.lag`, whose unit stands beside it. */
export function nameOf(name: MetricName): { name: string; unit: string } {
  const unit = name.endsWith('_seconds') ? 's' : '1'
  const plain = name.replace(/_(total|seconds)$/, '').replaceAll('_', '.')
  return { name: conventional[name]?.name ?? plain, unit }
}

/** Counters and histograms out of events. Instruments are made at their first use: the SDK may be registered later. */
export function otelMeters(provider: MeterProvider | undefined): OnEvent {
  const topicLabel = boundedLabels()
  const record = new Map<MetricName, (value: number, labels: Labels) => void>()
  const instrument = (metric: MetricName): ((value: number, labels: Labels) => void) => {
    const meter = meterOf(provider)
    const { name, unit } = nameOf(metric)
    const { kind, help: description } = metrics[metric]
    if (kind === 'histogram') {
      const advice = { explicitBucketBoundaries: [...buckets] }
      const histogram = meter.createHistogram(name, { unit, description, advice })
      return (value, labels) => histogram.record(value, toAttributes(metric, labels))
    }
    const counter = meter.createCounter(name, { unit, description })
    return (value, labels) => counter.add(value, toAttributes(metric, labels))
  }
  return (event) => {
    for (const { name, value, labels } of measure(event, topicLabel)) {
      let add = record.get(name)
      if (add === undefined) record.set(name, (add = instrument(name)))
      add(value, labels)
    }
  }
}
