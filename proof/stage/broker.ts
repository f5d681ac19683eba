import type { Trial, TrialPlace } from '../../src/brokers/adapter.ts'
import { adapterOf } from '../../src/brokers/registry.ts'
import type { Database } from '../../src/database/database.ts'

/** What all processes of one run of the demo or the soak have to know. */
export interface Run {
  /** Part of every name, so that runs at the same time are strangers to each other. */
  readonly name: string
  readonly databaseUrl: string
  readonly schema: string
  /** As the registry knows it. */
  readonly broker: string
  readonly brokerUrl: string | null
  /** Whether its password may be sent there without TLS. */
  readonly insecure: boolean
  /** Servers of ZooKeeper, by whose sessions workers know who lives; null if heartbeats and locks alone tell. */
  readonly zookeeper: string | null
  readonly consumer: string
}

/** The broker of the run, under its names. */
export const trialOf = (
  { name, schema, broker, brokerUrl, insecure }: Run,
  database: Database,
  via: TrialPlace['via'] = [],
): Promise<Trial> =>
  adapterOf(broker)!.openTrial({
    name,
    schema,
    url: brokerUrl ?? undefined,
    insecure,
    database: () => database,
    fewTopics: true,
    via,
  })
