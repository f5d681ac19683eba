import { OptionError, describeError } from '../../base/errors.ts'
import { checkConsumer } from '../../base/options.ts'
import { checkTopicPattern } from '../../message/message.ts'
import { isLocal } from '../../base/local.ts'
import { checkKey } from './curve.ts'

/** Consumers by their names. */
export type Consumers = Readonly<Record<string, ZeromqConsumer>>

/** Where a consumer's receivers listen, and what it takes. */
export interface ZeromqConsumer {
  /**
   * Such as `tcp://10.0.0.5:7301`, 1 to 16 of them. One is used at a time: when no sign of life comes from there, the next
   * one in order, and after the last the first.
   */
  readonly addresses: readonly string[]
  /** Topic names or patterns: `*` is one word, `#` is any number of words, words are parted by dots. */
  readonly topics: readonly string[]
  /** The public key of its receivers, with `curve`. */
  readonly publicKey?: string | undefined
}

/** How messages travel. */
export interface Way {
  readonly encrypted: boolean
  readonly insecure: boolean
}

const pattern = /^tcp:\/\/(\*|\[[\da-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})$/i

/** Host, without the brackets of IPv6, and port. @throws OptionError */
export function readAddress(option: string, address: unknown): { host: string; port: number } {
  const found = typeof address === 'string' ? pattern.exec(address) : null
  const port = Number(found?.[2])
  if (found === null || port < 1 || port > 65_535)
    throw new OptionError(option, `${option} must be an address such as tcp://10.0.0.5:7301.`)
  return { host: found[1]!.replace(/^\[(.*)\]$/, '$1'), port }
}

/** @throws OptionError for what is no address to listen at, and for one that other machines reach in the clear. */
export function checkBind(bind: string, way: Way): string {
  refuseClear('bind', [bind], way)
  return bind
}

/** @throws OptionError */
export function checkConsumers(consumers: Consumers, way: Way): Consumers {
  if (typeof consumers !== 'object' || consumers === null || Array.isArray(consumers))
    throw wrong('must be an object of consumers by their names')
  const taken = new Set<string>()
  const checked = Object.entries(consumers).map(([name, consumer]) => {
    checkConsumer(name)
    const one = checkOne(name, consumer, way)
    for (const address of one.addresses) {
      // What is for one consumer would go to the other.
      if (taken.has(address)) throw wrong(`.${name} has an address that stands there twice: ${address}`)
      taken.add(address)
    }
    return [name, one] as const
  })
  return Object.fromEntries(checked)
}

function checkOne(name: string, consumer: ZeromqConsumer, way: Way): ZeromqConsumer {
  const { addresses, topics, publicKey } = consumer ?? {}
  const unknown = Object.keys(consumer ?? {}).find((field) => !known.includes(field))
  if (unknown !== undefined) throw wrong(`.${name} has no field ${unknown}. Known are: ${known.join(', ')}`)
  if (!Array.isArray(addresses) || addresses.length === 0 || addresses.length > 16)
    throw wrong(`.${name}.addresses must be a list of 1 to 16 addresses`)
  refuseClear('consumers', addresses, way)
  if (addresses.some((address) => readAddress('consumers', address).host === '*'))
    throw wrong(`.${name}.addresses must say where to connect: * is for bind`)
  if (!Array.isArray(topics) || topics.length === 0)
    throw wrong(`.${name}.topics must be a list of at least one topic or pattern`)
  for (const topic of topics) checkTopic(name, topic)
  if (way.encrypted) checkKey(`consumers.${name}.publicKey`, publicKey)
  else if (publicKey !== undefined)
    throw wrong(`.${name} has a publicKey, which is of no use without the option curve`)
  return { addresses: [...addresses], topics: [...topics], publicKey }
}

function checkTopic(name: string, topic: string): void {
  try {
    checkTopicPattern(topic)
  } catch (error) {
    throw wrong(`.${name}.topics has one that is none: ${describeError(error)}`)
  }
}

const known = ['addresses', 'topics', 'publicKey']

/** Not passwords alone: whoever listens reads the messages, and whoever reaches the address writes some. */
function refuseClear(option: string, addresses: readonly unknown[], { encrypted, insecure }: Way): void {
  const hosts = addresses.map((address) => readAddress(option, address).host)
  const host = hosts.find((each) => !isLocal(each))
  if (host === undefined || insecure || encrypted) return
  throw new OptionError(
    option,
    `${option} has ${host}, which may be another machine: messages would travel in the clear, to and from anybody. Encrypt with curve, ` +
      'or allow it with insecure: true (on the command line --insecure or TWINBOX_INSECURE=1).',
  )
}

const wrong = (what: string): OptionError =>
  new OptionError('consumers', `consumers${what.startsWith('.') ? '' : ' '}${what}.`)

/**
 * What `--url` says: addresses with commas between, each with its consumer as the path, and what it takes as `topic`, all unless said:
 * `tcp://10.0.0.5:7301/billing?topic=order.*&topic=invoice.%23`. @throws OptionError
 */
export function readUrl(url: string): Consumers {
  const found = new Map<string, { addresses: string[]; topics: Set<string> }>()
  for (const part of url.split(',').map((one) => one.trim())) {
    const [, address, name, query] = /^(tcp:\/\/[^/?#]+)\/([^/?#]+)(?:\?([^#]*))?$/.exec(part) ?? []
    if (address === undefined || name === undefined) {
      throw new OptionError(
        'url',
        'url must be addresses with commas between, each with a consumer, such as tcp://10.0.0.5:7301/billing?topic=order.* (write %23 for #).',
      )
    }
    const consumer = found.get(name) ?? { addresses: [], topics: new Set<string>() }
    found.set(name, consumer)
    consumer.addresses.push(address)
    for (const topic of new URLSearchParams(query).getAll('topic')) consumer.topics.add(topic)
  }
  return Object.fromEntries(
    [...found].map(([name, { addresses, topics }]) => [
      name,
      { addresses, topics: topics.size === 0 ? ['#'] : [...topics] },
    ]),
  )
}
