import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import { madeUpWebhooks, type Webhook } from './made-up.ts'

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

/** The real ones, or some of the same shape and sizes. Every process of a run reads the same. */
export const readWebhooks = (): Webhook[] => realWebhooks() ?? madeUpWebhooks()

/** That what was handled is what was published. */
export function hashOf(payload: unknown): string {
  return createHash('sha256').update(JSON.stringify(payload)).digest('hex')
}
