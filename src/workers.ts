import type { WorkerKind } from './base/events.ts'
import { noFailpoint } from './base/failpoint.ts'
import type { Broker } from './brokers/broker.ts'
import { claimerWith } from './claimer/claimer.ts'
import type { ClaimerOptions } from './claimer/options.ts'
import { asJudged, type Pacing } from './claimer/verdict.ts'
import type { Config, AnyConsumerConfig } from './config.ts'
import { workerOptionNames, type Worker, type WorkerOptions } from './membership/worker.ts'
import { createReceiver } from './receiver/receiver.ts'
import { createRelay } from './relay/relay.ts'

/** What the workers of one process are made of. */
export interface WorkerParts {
  readonly kinds: readonly WorkerKind[]
  readonly consumers: readonly (readonly [name: string, AnyConsumerConfig])[]
  readonly relay?: Config['relay']
  readonly topics?: Config['topics']
  /** Claimers need none. */
  readonly broker: Broker | null
  readonly shared: WorkerOptions
  /** Of a consumer's failed messages, for tests. @default as judged */
  readonly pacingOf?: (consumer: string) => Pacing
}

/** In the order of their start: who subscribes comes before who sends. @throws OptionError */
export function createWorkers(parts: WorkerParts): Worker[] {
  const { kinds, consumers, relay, topics, broker, shared, pacingOf = () => asJudged } = parts
  const workers: Worker[] = []
  if (broker !== null && kinds.includes('receiver')) {
    for (const [consumer, config] of consumers) {
      const { receiving } = partsOf(config)
      workers.push(createReceiver({ ...sharedOptions(config), ...shared, broker, consumer, ...receiving }))
    }
  }
  if (kinds.includes('claimer')) {
    for (const [consumer, config] of consumers) {
      const { claiming, handlers } = partsOf(config)
      const options = { ...claiming, ...shared, topics, consumer }
      const seen = { failpoint: noFailpoint, pacing: pacingOf(consumer) }
      // Whose transactions they take has been said with them, in the configuration.
      workers.push(claimerWith(options as ClaimerOptions, handlers, seen))
    }
  }
  if (broker !== null && kinds.includes('relay')) workers.push(createRelay({ ...relay, ...shared, broker }))
  return workers
}

function partsOf({
  handlers,
  topics,
  identify,
  topicOf,
  from,
  sources,
  collisions,
  ...claiming
}: AnyConsumerConfig) {
  return { handlers, receiving: { topics, identify, topicOf, from, sources, collisions }, claiming }
}

/** Of a consumer's options those that its receivers know too; the others are its claimers'. */
function sharedOptions(config: AnyConsumerConfig): Partial<WorkerOptions> {
  const known: readonly string[] = workerOptionNames
  return Object.fromEntries(Object.entries(config).filter(([name]) => known.includes(name)))
}
