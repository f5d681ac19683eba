import type { Adapter } from './adapter.ts'
import { kafka } from './kafka/adapter.ts'
import { postgres } from './postgres/adapter.ts'
import { rabbitmq } from './rabbitmq/adapter.ts'
import { zeromq } from './zeromq/adapter.ts'

/** Every broker that Twinbox knows by name, in the order in which help lists them. To add one, add it here. */
export const adapters: readonly Adapter[] = [postgres, rabbitmq, kafka, zeromq]

export const brokerNames: readonly string[] = adapters.map(({ name }) => name)

export const adapterOf = (name: string): Adapter | undefined =>
  adapters.find((adapter) => adapter.name === name)
