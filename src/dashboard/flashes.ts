import { randomBytes } from 'node:crypto'
import type { Viewer } from './options.ts'
import type { Flash } from './view.ts'

/** Nobody needs more of them than the last few. */
const keptMax = 200

/**
 * What an action says on the page that follows, once, to whoever acted. Kept here and not in the URL: a link could otherwise
 * have the dashboard say anything.
 */
export class Flashes {
  readonly #kept = new Map<string, Flash & { readonly name: string }>()

  keep(flash: Flash, { name }: Viewer): string {
    const id = randomBytes(12).toString('base64url')
    this.#kept.set(id, { ...flash, name })
    if (this.#kept.size > keptMax) this.#kept.delete(this.#kept.keys().next().value!)
    return id
  }

  take(id: string | null, { name }: Viewer): Flash | null {
    const flash = id === null ? undefined : this.#kept.get(id)
    if (flash?.name !== name) return null
    this.#kept.delete(id!)
    return flash
  }
}
