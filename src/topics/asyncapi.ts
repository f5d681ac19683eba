import { jsonContentType, takes } from '../message/message.ts'
import { versionHeader } from './reading.ts'
import { jsonSchemaOf } from './schema.ts'
import { versionOf, type TopicDefinition, type Topics } from './topics.ts'

/** Whose document it is, and who receives what. */
export interface Described {
  readonly title: string
  readonly version: string
  /** By the name of a consumer, the names and patterns of topics that it receives. */
  readonly consumers: Readonly<Record<string, readonly string[]>>
}

/** A document of AsyncAPI 3 (https://www.asyncapi.com/docs/reference/specification/v3.0.0): topics are its channels. */
export interface AsyncApi {
  readonly document: object
  /** Topics whose payload it does not describe, since the library of their schema cannot. */
  readonly undescribed: readonly string[]
}

export function toAsyncApi(topics: Topics, { title, version, consumers }: Described): AsyncApi {
  const undescribed: string[] = []
  const channels: Record<string, object> = {}
  const operations: Record<string, object> = {}
  for (const [topic, definition] of topics.definitions) {
    const schema = payloadOf(definition)
    if (schema === null) undescribed.push(topic)
    const { summary } = definition
    channels[topic] = {
      address: topic,
      messages: { [topic]: messageOf(topic, definition, schema) },
    }
    const operation = (action: 'send' | 'receive', told: object): object => ({
      action,
      channel: { $ref: `#/channels/${topic}` },
      messages: [{ $ref: `#/channels/${topic}/messages/${topic}` }],
      ...told,
    })
    operations[`send.${topic}`] = operation('send', summary === undefined ? {} : { summary })
    for (const [consumer, patterns] of Object.entries(consumers)) {
      if (takes(patterns, topic))
        operations[`receive.${topic}.${consumer}`] = operation('receive', {
          summary: `Handled by the consumer "${consumer}".`,
        })
    }
  }
  const info = { title, version }
  const document = { asyncapi: '3.0.0', info, defaultContentType: jsonContentType, channels, operations }
  return { document, undescribed }
}

function messageOf(topic: string, definition: TopicDefinition, schema: object | null): object {
  const version = versionOf(definition)
  return {
    name: topic,
    ...(definition.summary !== undefined && { summary: definition.summary }),
    contentType: jsonContentType,
    ...(version > 1 && {
      headers: {
        type: 'object',
        properties: { [versionHeader]: { type: 'string', const: String(version) } },
        required: [versionHeader],
      },
    }),
    ...(schema !== null && {
      payload: { schemaFormat: 'application/schema+json;version=draft-07', schema },
    }),
  }
}

/** What is published. Libraries throw for what JSON Schema cannot say, such as a Date or a function. */
function payloadOf({ schema, jsonSchema }: TopicDefinition): object | null {
  try {
    return jsonSchema ?? jsonSchemaOf(schema)
  } catch {
    return null
  }
}
