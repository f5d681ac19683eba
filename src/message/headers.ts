import { limits } from '../base/options.ts'
import { isRoutingHeader } from './message.ts'
import { isPlain } from './payload.ts'
import { checkStorable, type Fail } from './text.ts'

const namePattern = new RegExp(`^[A-Za-z0-9!#$%&'*+.^_\`|~-]{1,${limits.headerNameLength}}$`)
const reserved = /^(ce_|cloudevents|twinbox|x-twinbox)/i
const notPrintable = /[^ -~]/

/** The headers as JSON text, null if there is none. What they may not be, `fail` is told. */
export function checkHeaders(headers: Readonly<Record<string, string>>, fail: Fail): string | null {
  // A Map or a Headers has no properties of its own: its entries would vanish without a word.
  if (typeof headers !== 'object' || headers === null || !isPlain(headers)) {
    return fail('INVALID_HEADERS', 'headers', 'must be a plain object of strings.')
  }
  const entries = Object.entries(headers)
  if (entries.length === 0) return null
  if (entries.length > limits.headerCount) {
    fail(
      'HEADERS_TOO_LARGE',
      'headers',
      `has ${entries.length} entries, but the limit is ${limits.headerCount}.`,
    )
  }
  let size = 0
  // A sound name needs no escapes in JSON.
  let json = ''
  for (const [name, value] of entries) {
    if (!soundNames.has(name)) checkHeaderName(name, fail)
    if (typeof value !== 'string') {
      fail(
        'INVALID_HEADERS',
        pathOf(name),
        `must be a string, since brokers differ in what else they carry; it is of type ${typeof value}.`,
      )
    }
    if (notPrintable.test(value)) {
      checkStorable(pathOf(name), value, fail)
      if (/[\r\n]/.test(value))
        fail('INVALID_TEXT', pathOf(name), 'contains a line break, which would forge headers further on.')
      size += Buffer.byteLength(value)
    } else size += value.length
    size += name.length
    json += `${json === '' ? '{' : ','}"${name}":${JSON.stringify(value)}`
  }
  if (size > limits.headersBytes) {
    fail('HEADERS_TOO_LARGE', 'headers', `has ${size} bytes in all, but the limit is ${limits.headersBytes}.`)
  }
  return `${json}}`
}

const pathOf = (name: string): string => `headers[${JSON.stringify(name.slice(0, 100))}]`

/** Names that have passed. Most applications have a handful; one that makes them up does not fill the memory. */
const soundNames = new Set<string>()

function checkHeaderName(name: string, fail: Fail): void {
  if (!namePattern.test(name) || name === '__proto__') {
    fail(
      'INVALID_HEADERS',
      pathOf(name),
      `needs a name of 1 to ${limits.headerNameLength} characters that HTTP, AMQP and Kafka all carry.`,
    )
  }
  if (reserved.test(name))
    fail('HEADER_RESERVED', pathOf(name), 'has a name that Twinbox or CloudEvents uses itself.')
  if (isRoutingHeader(name))
    fail(
      'HEADER_RESERVED',
      pathOf(name),
      'has a name by which RabbitMQ sends copies elsewhere. Choose another one.',
    )
  if (soundNames.size >= 1000) soundNames.clear()
  soundNames.add(name)
}
