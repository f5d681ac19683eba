import { randomBytes } from 'node:crypto'
import { afterAll } from 'vitest'
import type { Adapter, Trial } from '../../src/brokers/adapter.ts'
import { isMissing, type Found } from '../support/require.ts'
import { brokerContract } from './contract.ts'

/** The contract over what an adapter makes of a URL alone, as the command line does. */
export interface ContractTrial {
  readonly name: string
  readonly trial: Trial
}

/** Null if there is no server. */
export async function openContractTrial(
  adapter: Adapter,
  found: Found<{ readonly url?: string }>,
): Promise<ContractTrial | null> {
  if (isMissing(found)) return null
  const name = `twinbox.contract.${randomBytes(5).toString('hex')}`
  const place = { name, schema: 'twinbox', database: () => 'postgres://127.0.0.1:1/none' }
  return { name, trial: await adapter.openTrial({ ...place, ...found }) }
}

export function trialContract(title: string, { name, trial }: ContractTrial): void {
  const { open, nowhere, clear } = trial
  const consumers = new Set<string>()
  let topics = 0
  afterAll(() => clear([...consumers]))
  brokerContract(title, {
    make: () => {
      const broker = open()
      return {
        ...broker,
        subscribe: (options, onBatch) => {
          consumers.add(options.consumer)
          return broker.subscribe(options, onBatch)
        },
      }
    },
    newTopic: () => `${name}.topic.${++topics}`,
    unroutableTopic: nowhere === null ? null : () => nowhere,
    // Only whoever knows the broker has one with a low limit.
    tooLarge: null,
    timeoutMs: 40_000,
  })
}
