import type { Adapter, Place } from '../brokers/adapter.ts'
import type { Broker } from '../brokers/broker.ts'
import { adapterOf, adapters, brokerNames } from '../brokers/registry.ts'
import { UsageError } from './failure.ts'

/** What help says of `--url`. */
export const urlHelp = `of the broker, such as ${adapters
  .filter(({ urlOptional }) => !urlOptional)
  .map(({ name, urlExample }) => `${urlExample} for ${name}`)
  .join(', ')}`

/** Opens one with default options. @throws UsageError, OptionError */
export async function openBroker(name: string, place: Place): Promise<Broker> {
  return reachable(name, place.url).open(place)
}

/** The broker of a name, if its URL is there as far as it needs one. @throws UsageError */
export function reachable(name: string, url: string | undefined): Adapter {
  const adapter = adapterOf(name)
  if (adapter === undefined) throw new UsageError(`The broker must be one of ${brokerNames.join(', ')}.`)
  if (url === undefined && !adapter.urlOptional) {
    throw new UsageError(
      `The broker ${name} needs --url or TWINBOX_BROKER_URL, such as ${adapter.urlExample}.`,
    )
  }
  return adapter
}
