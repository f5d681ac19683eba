import type { Options } from 'amqplib'
import { BrokerError, describeError } from '../../base/errors.ts'
import { isRoutingHeader, type OutgoingMessage } from '../../message/message.ts'
import type { SendOutcome } from '../broker.ts'
import { toWireHeaders } from '../cloudevent.ts'
import type { Settings } from './options.ts'

/** A message on its way out, and what has become of it so far. */
export interface Sending {
  readonly routingKey: string
  readonly body: Buffer
  readonly properties: Options.Publish & { readonly messageId: string }
  /** True once amqplib has it: from then on it may have arrived. */
  written: boolean
  /** Null until the server has answered, or there is nothing to wait for. */
  outcome: SendOutcome | null
}

export function toSending(message: OutgoingMessage, settings: Settings): Sending {
  const sending: Sending = {
    routingKey: '',
    body: toBuffer(message.content),
    properties: {
      messageId: message.id,
      contentType: message.contentType,
      headers: toWireHeaders(message, 'cloudEvents:', settings.source),
      timestamp: Math.floor(message.publishedAt.getTime() / 1000),
      persistent: true,
      // The server confirms what no queue took as well. Only this makes it say so first.
      mandatory: settings.unroutable === 'fail',
    },
    written: false,
    outcome: null,
  }
  // Rows that were written by hand: `publish` lets none of these pass.
  const reserved = Object.keys(message.headers ?? {}).find(isRoutingHeader)
  if (reserved !== undefined) {
    const text = `The message has a header ${reserved}, which RabbitMQ would take for a list of further routing keys. It was not sent.`
    return { ...sending, outcome: rejected(new BrokerError('poison', text)) }
  }
  try {
    return { ...sending, routingKey: settings.routingKey(message) }
  } catch (error) {
    const text = `The option routingKey threw for topic ${message.topic}: ${describeError(error)}`
    return { ...sending, outcome: rejected(new BrokerError('config', text, { cause: error })) }
  }
}

export const pending = (sendings: readonly Sending[]): Sending[] =>
  sendings.filter((sending) => sending.outcome === null)

export const rejected = (error: BrokerError): SendOutcome => ({ status: 'rejected', error })

export const failed = (error: BrokerError): SendOutcome => ({ status: 'failed', error })

/** What is to be said of a message that got no answer, `because` the sending ended early. */
export function unanswered(sending: Sending, because: BrokerError): SendOutcome {
  if (!sending.written) return failed(because)
  return { status: 'unknown', error: new BrokerError('unknown', because.message, { cause: because }) }
}

function toBuffer(content: string | Uint8Array): Buffer {
  if (typeof content === 'string') return Buffer.from(content)
  return Buffer.from(content.buffer, content.byteOffset, content.byteLength)
}
