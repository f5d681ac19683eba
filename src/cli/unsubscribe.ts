import { adapterOf } from '../brokers/registry.ts'
import { unsubscribe } from '../operate/unsubscribe.ts'
import type { Flags } from '../terminal/flags.ts'
import { signatureOf, type SignatureFlags } from './signature.ts'
import { readSettings } from './settings.ts'
import { remark, say } from '../terminal/output.ts'

/** Ends subscriptions of a consumer. 1 if it was not subscribed to one of them. */
export async function endSubscriptions(
  topics: readonly string[],
  flags: Flags & SignatureFlags & { readonly consumer: string },
): Promise<0 | 1> {
  const { consumer } = flags
  const { schema, database, config, openBroker } = await readSettings(flags)
  const named = flags.broker ?? flags.url ?? process.env['TWINBOX_BROKER'] ?? config.broker
  const broker = named === undefined ? undefined : await openBroker()
  try {
    const result = await unsubscribe(database(), { consumer, topics, broker, schema, ...signatureOf(flags) })
    if (flags.json === true) say(JSON.stringify({ schema, consumer, ...result }))
    else {
      for (const topic of result.unsubscribed) say(`${consumer} is no longer subscribed to ${topic}.`)
      const more = broker === undefined ? null : adapterOf(broker.name)?.unsubscribed
      if (typeof more === 'string') say(more)
    }
    for (const topic of result.unknown)
      remark(`${consumer} was not subscribed to ${topic}, as far as is written down.`)
    return result.unknown.length === 0 ? 0 : 1
  } finally {
    await broker?.close()
  }
}
