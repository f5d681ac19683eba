import { OptionError } from '../../base/errors.ts'
import type { KafkaOptions } from './options.ts'

/** Options that `--url` may say behind a `?`; their values are checked with all others. */
const said = ['client', 'topology'] as const
type Said = Pick<KafkaOptions, (typeof said)[number]>

/**
 * What `--url` says: `host:port`, several with commas between, `kafka://` in front or not, and options:
 * `10.0.0.5:9092,10.0.0.6:9092?client=platformatic&topology=declare`. @throws OptionError
 */
export function readUrl(url: string): Pick<KafkaOptions, 'brokers'> & Said {
  const [addresses = '', query, ...more] = url.split('?')
  const parameters = new URLSearchParams(query)
  const unknown = [...parameters.keys()].find((name) => !said.some((known) => known === name))
  const twice = said.find((name) => parameters.getAll(name).length > 1)
  if (more.length > 0 || unknown !== undefined || twice !== undefined) {
    const what = more.length > 0 ? 'a second ?' : unknown === undefined ? `${twice} twice` : unknown
    throw new OptionError(
      'url',
      `url has ${what} behind the brokers, where there may be ${said.join(' and ')}, as in 127.0.0.1:9092?client=platformatic&topology=check.`,
    )
  }
  const brokers = addresses.split(',').map((broker) => broker.trim().replace(/^kafka:\/\//, ''))
  return { brokers, ...(Object.fromEntries(parameters) as Said) }
}
