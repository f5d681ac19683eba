import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Viewer } from './options.ts'

/**
 * Proves that a form came from a page of ours, made for this viewer. A foreign page can make a browser post to us with all its
 * cookies, but cannot read the token.
 */
export class Tokens {
  readonly #secret: string | Buffer

  constructor(secret: string | undefined) {
    this.#secret = secret ?? randomBytes(32)
  }

  of({ name, access }: Viewer): string {
    return createHmac('sha256', this.#secret)
      .update(JSON.stringify([name, access]))
      .digest('base64url')
  }

  isOf(viewer: Viewer, given: string | null): boolean {
    const wanted = Buffer.from(this.of(viewer))
    const found = Buffer.from(given ?? '')
    return found.length === wanted.length && timingSafeEqual(found, wanted)
  }
}

/**
 * Whether a browser sent the request from a page of this very origin. Browsers say `Sec-Fetch-Site` to secure addresses and to this
 * machine, and `Origin` everywhere else; who says neither is no browser, or an old one, and is refused.
 */
export function isSameOrigin(request: Request): boolean {
  const site = request.headers.get('sec-fetch-site')
  if (site !== null) return site === 'same-origin'
  const origin = request.headers.get('origin')
  if (origin === null || !URL.canParse(origin)) return false
  // Behind a proxy that ends TLS, our scheme is not the browser's.
  return new URL(origin).host === new URL(request.url).host
}
