import type { Adapter, Place } from '../brokers/adapter.ts'
import type { Broker } from '../brokers/broker.ts'
import { adapterOf, adapters, brokerNames } from '../brokers/registry.ts'
import { UsageError } from './failure.ts'

/** What help says of `--url`. */
export const urlHelp = `TWINBOX_BROKER_URL, or this: of the broker, such as ${adapters
  .filter(({ urlOptional }) => !urlOptional)
  // The first of several: a word that is wider than its column breaks the column.
  .map(({ name, urlExample }) => `${urlExample.split(',')[0]} for ${name}`)
  .join(', ')}`

/** What help says of `--insecure`. */
export const insecureHelp =
  "TWINBOX_INSECURE=1, or this: to another machine, send the URL's password without TLS or without verifying it, and use ZooKeeper"

/** By flag or environment. @throws UsageError */
export function readInsecure(flag: boolean | undefined): boolean {
  const given = process.env['TWINBOX_INSECURE'] || undefined
  if (flag === undefined && given !== undefined && given !== '1')
    throw new UsageError('TWINBOX_INSECURE must be 1, or be left out.')
  return flag ?? given === '1'
}

/** Opens one with default options. @throws UsageError, OptionError */
export async function openBroker(name: string, place: Place): Promise<Broker> {
  return reachable(name, place.url).open(place)
}

/** The broker of a name, if its URL is there as far as workers, or a trial, need one. @throws UsageError */
export function reachable(name: string, url: string | undefined, trial = false): Adapter {
  const adapter = adapterOf(name)
  if (adapter === undefined) throw new UsageError(`The broker must be one of ${brokerNames.join(', ')}.`)
  if (url === undefined && (trial ? adapter.trialNeedsUrl : !adapter.urlOptional)) {
    throw new UsageError(
      `The broker ${name} needs TWINBOX_BROKER_URL or --url, such as ${adapter.urlExample}.`,
    )
  }
  return adapter
}
