import { existsSync, readFileSync } from 'node:fs'
import type { Config } from '../config.ts'
import { takes } from '../message/message.ts'
import { UsageError } from '../terminal/failure.ts'
import type { CommonFlags } from '../terminal/flags.ts'
import { remark, say, sayTable } from '../terminal/output.ts'
import { toAsyncApi } from '../topics/asyncapi.ts'
import { readTopics, versionOf } from '../topics/topics.ts'
import { readSettings } from './settings.ts'

export interface TopicsFlags extends CommonFlags {
  readonly asyncapi?: boolean
  readonly title?: string
}

/** Shows the topics of the configuration, or describes them for other teams and tools. */
export async function showTopics(flags: TopicsFlags): Promise<void> {
  const { config } = await readSettings(flags)
  const topics = readTopics('the configuration', config.topics)
  if (topics === null)
    throw new UsageError(
      'The configuration defines no topics: export default defineConfig({ topics: defineTopics({ … }), … }) in twinbox.config.{js,mjs,ts}.',
    )
  const consumers = patternsOf(config)
  if (flags.asyncapi === true) {
    const { name = 'Messages', version = '0.0.0' } = readPackage()
    const { document, undescribed } = toAsyncApi(topics, { title: flags.title ?? name, version, consumers })
    for (const topic of undescribed)
      remark(
        `The payload of "${topic}" is not described: the library of its schema gives no JSON Schema of it. Give jsonSchema in its definition.`,
      )
    return void say(JSON.stringify(document, null, 2))
  }
  const shown = [...topics.definitions].map(([topic, definition]) => ({
    topic,
    version: versionOf(definition),
    schema: definition.schema['~standard'].vendor,
    key: definition.key !== undefined,
    consumers: Object.entries(consumers)
      .filter(([, patterns]) => takes(patterns, topic))
      .map(([consumer]) => consumer),
    summary: definition.summary ?? null,
  }))
  if (flags.json === true) return void say(JSON.stringify({ topics: shown }))
  sayTable(
    ['topic', 'version', 'schema', 'key', 'consumers', 'summary'],
    shown.map(({ topic, version, schema, key, consumers: by, summary }) => [
      topic,
      String(version),
      schema,
      key ? 'yes' : 'no',
      by.join(', ') || '-',
      summary ?? '',
    ]),
    {
      drops: ['schema', 'version', 'key'],
      cuts: { topic: 'middle', consumers: 'end', summary: 'end' },
    },
  )
}

const patternsOf = ({ consumers = {} }: Config): Record<string, readonly string[]> =>
  Object.fromEntries(Object.entries(consumers).map(([name, { topics }]) => [name, topics]))

/** Of the application, for whom the document is. */
function readPackage(): { readonly name?: string; readonly version?: string } {
  if (!existsSync('package.json')) return {}
  try {
    const { name, version } = JSON.parse(readFileSync('package.json', 'utf8')) as Record<string, unknown>
    return {
      ...(typeof name === 'string' && { name }),
      ...(typeof version === 'string' && { version }),
    }
  } catch {
    return {}
  }
}
