import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'

/** A webhook as GitHub sent it. */
export interface Webhook {
  /** The event's name. */
  readonly topic: string
  /** The repository that it is about, if it is about one. */
  readonly key: string | null
  readonly payload: object
}

/** What GitHub documents as examples: real payloads, of 200 bytes to 27 KB. @throws if the package is not there */
export function readWebhooks(): Webhook[] {
  const require = createRequire(import.meta.url)
  const definitions = require('@octokit/webhooks-examples') as { name: string; examples: object[] }[]
  return definitions.flatMap(({ name, examples }) =>
    examples.map((payload) => {
      const { repository } = payload as { repository?: { full_name?: string } }
      return { topic: name, key: repository?.full_name ?? null, payload }
    }),
  )
}

/** That what was handled is what was published. */
export function hashOf(payload: unknown): string {
  return createHash('sha256').update(JSON.stringify(payload)).digest('hex')
}
