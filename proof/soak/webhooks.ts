import { createRequire } from 'node:module'
import { madeUpWebhooks, type Webhook } from './made-up.ts'
import type { Source, Transaction } from './load.ts'

export type { Webhook }

/** The library that has the real ones. */
export const webhookLibrary = '@octokit/webhooks-examples'

/** What GitHub documents as examples: payloads of 900 bytes to 27 KB. Null if the library is not installed. */
export function realWebhooks(): Webhook[] | null {
  let definitions: { name: string; examples: object[] }[]
  try {
    // Where npx has put this package, and where its user installs others, need not be one folder.
    const require = createRequire(import.meta.url)
    const entry = require.resolve(webhookLibrary, { paths: [import.meta.dirname, process.cwd()] })
    definitions = require(entry) as typeof definitions
  } catch {
    return null
  }
  return definitions.flatMap(({ name, examples }) =>
    examples.map((payload) => {
      const { repository } = payload as { repository?: { full_name?: string } }
      return { topic: name, key: repository?.full_name ?? null, payload }
    }),
  )
}

/**
 * Takes webhooks in as an application would: each in a transaction that enters it in the ledger and publishes it, by the
 * ordering lock of its repository. One in ten is rolled back at first and comes again, and one in fifty comes twice, as GitHub
 * does it when it gets no answer in time. The second half comes when it may.
 */
export class WebhookSource implements Source {
  readonly persists = true
  readonly #name: string
  readonly #count: number
  readonly #webhooks = realWebhooks() ?? madeUpWebhooks()
  #next = 0
  #mayProceed = false

  /** @param name part of their dedupe keys */
  constructor(name: string, count: number) {
    this.#name = name
    this.#count = count
  }

  proceed(): void {
    this.#mayProceed = true
  }

  next(): Transaction[] {
    const n = this.#next
    if (n >= (this.#mayProceed ? this.#count : Math.ceil(this.#count / 2))) return []
    this.#next++
    const { topic, key, payload } = this.#webhooks[n % this.#webhooks.length]!
    const message = { topic, key, payload: { ...payload, n }, dedupeKey: `${this.#name}-${n}` }
    const delivery = { messages: [message], locked: key !== null, fails: false, part: null }
    return [
      ...(n % 10 === 3 ? [{ ...delivery, fails: true }] : []),
      delivery,
      ...(n % 50 === 7 ? [delivery] : []),
    ]
  }
}
