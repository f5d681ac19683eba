import type { TwinboxEvent } from '../base/events.ts'
import { printableLabel } from '../base/printable.ts'

/**
 * What is measured, by its names and labels, and how it follows from events. Prometheus and OpenTelemetry both read
 * this; `opentelemetry/meters.ts` gives some of it the names that the messaging conventions have for it.
 */
export interface Metric {
  readonly kind: 'counter' | 'histogram' | 'gauge'
  readonly help: string
  readonly labels: readonly Label[]
}

export type Label =
  'broker' | 'consumer' | 'topic' | 'kind' | 'found_by' | 'source' | 'state' | 'holder' | 'type'

const metric =
  (kind: Metric['kind']) =>
  (help: string, ...labels: readonly Label[]): Metric => ({ kind, help, labels })
const counter = metric('counter')
const histogram = metric('histogram')
const gauge = metric('gauge')

/** Seconds. The buckets of the messaging conventions, and some for slow handlers. */
export const buckets = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60]

/** By their names for Prometheus. An empty `consumer` is the outbox. */
export const metrics = {
  twinbox_sent_messages_total: counter('Messages that the broker has taken', 'broker', 'topic'),
  twinbox_send_duration_seconds: histogram('How long the broker took for a batch', 'broker'),
  twinbox_received_messages_total: counter(
    'Messages written to an inbox for the first time',
    'broker',
    'consumer',
  ),
  twinbox_collisions_total: counter(
    'Deliveries with the identity of another message, now dead letters',
    'broker',
    'consumer',
  ),
  twinbox_duplicate_messages_total: counter('Deliveries dropped as seen before', 'broker', 'consumer'),
  twinbox_refused_deliveries_total: counter('Deliveries that are no messages', 'consumer'),
  twinbox_missed_offsets_total: counter(
    'Offsets that were deleted before they were read',
    'consumer',
    'topic',
  ),
  twinbox_receive_duration_seconds: histogram('How long a batch took into the inbox', 'broker', 'consumer'),
  twinbox_claimed_messages_total: counter('Messages claimed', 'consumer'),
  twinbox_handled_messages_total: counter('Messages whose handlers have succeeded', 'consumer', 'topic'),
  twinbox_handle_duration_seconds: histogram(
    'How long a handler took, its transaction included',
    'consumer',
    'topic',
  ),
  twinbox_failed_attempts_total: counter(
    'Attempts that have failed',
    'kind',
    'consumer',
    'topic',
    'found_by',
  ),
  twinbox_buried_messages_total: counter('Messages that became dead letters', 'kind', 'consumer', 'topic'),
  twinbox_unhandled_messages_total: counter(
    'Messages of topics without a handler here, by whether they were set aside or dropped',
    'consumer',
    'topic',
    'type',
  ),
  twinbox_stuck_handlers_total: counter(
    'Times that a handler was told of since it did not end',
    'consumer',
    'topic',
  ),
  twinbox_circuits_opened_total: counter('Times that a topic began to pause', 'consumer', 'topic'),
  twinbox_parkings_total: counter('Times that a key was held back', 'kind', 'consumer'),
  twinbox_lost_leases_total: counter('Messages and lanes lost to other workers', 'kind', 'consumer'),
  twinbox_takeovers_total: counter(
    'Continuations of what another worker held',
    'kind',
    'consumer',
    'found_by',
  ),
  twinbox_worker_deaths_total: counter('Workers found dead by this process', 'kind', 'consumer', 'found_by'),
  twinbox_outages_total: counter(
    'Times that the broker or the database was lost',
    'kind',
    'consumer',
    'type',
  ),
  twinbox_stalls_total: counter('Times that the event loop stood still for a heartbeat or more', 'kind'),
  twinbox_troubles_total: counter('Unforeseen errors', 'kind', 'consumer'),

  twinbox_depth: gauge('Messages waiting or in flight; counting ends at 100000', 'consumer', 'topic'),
  twinbox_lag_seconds: gauge('Age of the oldest message waiting or in flight', 'consumer'),
  twinbox_topic_lag_seconds: gauge('The same by topic', 'consumer', 'topic'),
  twinbox_deferred_messages: gauge('Messages waiting for a time; counting ends at 100000', 'consumer'),
  twinbox_parked_keys: gauge('Keys held back', 'consumer'),
  twinbox_parked_messages: gauge('Messages behind them; counting ends at 100000', 'consumer'),
  twinbox_paused_topics: gauge('Topics that pause: what their handlers need is away', 'consumer'),
  twinbox_dead_letters: gauge('Dead letters kept; counting ends at 100000', 'consumer'),
  twinbox_workers: gauge('Workers by their state', 'kind', 'consumer', 'state'),
  twinbox_abandoned_lanes: gauge('Lanes in which messages wait and that nobody holds', 'consumer'),
  twinbox_xmin_age_transactions: gauge(
    'How many transactions old the oldest snapshot is that keeps dead rows from being removed; who holds it',
    'source',
    'holder',
  ),
  twinbox_xmin_age_seconds: gauge('How long it has been held; 0 if that cannot be known', 'source', 'holder'),
  twinbox_database_up: gauge('1 if all gauges could be read from the database, else 0'),
} as const satisfies Record<string, Metric>

export type MetricName = keyof typeof metrics
export type Labels = Readonly<Partial<Record<Label, string>>>

export interface Measurement {
  readonly name: MetricName
  readonly value: number
  readonly labels: Labels
}

/** How many names become labels, of topics and of consumers. */
export const labelsMax = 200

/**
 * Names as labels, the first two hundred, in one line and not too long: each is a time series for ever, and who may publish, or
 * may send to the broker, could make any number of them. The others are `other`.
 */
export function boundedLabels(): (name: string) => string {
  const known = new Set<string>()
  return (name) => {
    const label = printableLabel(name)
    if (!known.has(label) && known.size >= labelsMax) return 'other'
    known.add(label)
    return label
  }
}

/** What an event adds to counters and histograms. */
export function measure(event: TwinboxEvent, topicLabel: (topic: string) => string): Measurement[] {
  const { kind } = event
  const consumer = event.consumer ?? ''
  const one = (name: MetricName, labels: Labels, value = 1): Measurement => ({ name, value, labels })
  switch (event.type) {
    case 'sent': {
      const { broker, topics, durationMs } = event
      return [
        ...Object.entries(topics).map(([topic, count]) =>
          one('twinbox_sent_messages_total', { broker, topic: topicLabel(topic) }, count),
        ),
        one('twinbox_send_duration_seconds', { broker }, durationMs / 1000),
      ]
    }
    case 'received': {
      const labels = { broker: event.broker, consumer }
      return [
        one('twinbox_received_messages_total', labels, event.fresh),
        one('twinbox_duplicate_messages_total', labels, event.duplicates),
        one('twinbox_collisions_total', labels, event.collisions),
        one('twinbox_receive_duration_seconds', labels, event.durationMs / 1000),
      ]
    }
    case 'refused':
      return [one('twinbox_refused_deliveries_total', { consumer })]
    case 'retention_gap': {
      const labels = { consumer, topic: topicLabel(event.topic) }
      return [one('twinbox_missed_offsets_total', labels, event.to - event.from)]
    }
    case 'claimed':
      return [one('twinbox_claimed_messages_total', { consumer }, event.ids.length)]
    case 'handled': {
      const labels = { consumer, topic: topicLabel(event.topic) }
      return [
        one('twinbox_handled_messages_total', labels, event.ids.length),
        one('twinbox_handle_duration_seconds', labels, event.durationMs / 1000),
      ]
    }
    case 'message_failed': {
      const labels = { kind, consumer, topic: topicLabel(event.topic), found_by: event.foundBy }
      return [one('twinbox_failed_attempts_total', labels)]
    }
    case 'dead_letter':
      return [one('twinbox_buried_messages_total', { kind, consumer, topic: topicLabel(event.topic) })]
    case 'set_aside':
    case 'dropped': {
      const labels = { consumer, topic: topicLabel(event.topic), type: event.type }
      return [one('twinbox_unhandled_messages_total', labels, event.ids.length)]
    }
    case 'handler_stuck':
      return [one('twinbox_stuck_handlers_total', { consumer, topic: topicLabel(event.topic) })]
    case 'circuit_opened':
      return [one('twinbox_circuits_opened_total', { consumer, topic: topicLabel(event.topic) })]
    case 'parked':
      return [one('twinbox_parkings_total', { kind, consumer })]
    case 'lease_lost':
      return [one('twinbox_lost_leases_total', { kind, consumer }, event.ids.length + event.lanes.length)]
    case 'takeover':
      return [one('twinbox_takeovers_total', { kind, consumer, found_by: event.foundBy })]
    case 'worker_dead':
      return [one('twinbox_worker_deaths_total', { kind, consumer, found_by: event.foundBy })]
    case 'broker_down':
      return [one('twinbox_outages_total', { kind, consumer, type: 'broker' })]
    case 'database_down':
      return [one('twinbox_outages_total', { kind, consumer, type: 'database' })]
    case 'coordination_down':
      return [one('twinbox_outages_total', { kind, consumer, type: 'coordination' })]
    case 'stalled':
      return [one('twinbox_stalls_total', { kind })]
    case 'sequence_mended':
    case 'found_below':
    case 'trouble':
      return [one('twinbox_troubles_total', { kind, consumer })]
    case 'started':
    case 'unsubscribed':
    case 'stopped':
    case 'circuit_closed':
    case 'broker_up':
    case 'database_up':
    case 'lanes_taken':
    case 'lanes_released':
    case 'lock_unavailable':
    case 'coordination_up':
      return []
    default:
      // An event of a later version than this switch.
      return (event satisfies never, [])
  }
}
