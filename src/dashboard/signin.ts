import { createHash, randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { promisify } from 'node:util'
import { readForm } from './form.ts'
import { answerHtml, redirect } from './headers.ts'
import { html, type Html } from './html.ts'
import type { Viewer } from './options.ts'
import { plainPage } from './page.ts'
import { linkBelow } from './link.ts'
import { readTheme } from './theme.ts'
import { isSameOrigin } from './token.ts'
import { Tries } from './tries.ts'

export interface Password {
  readonly user: string
  readonly password: string
}

interface Session {
  readonly viewer: Viewer
  readonly endsAt: number
}

const sessionMs = 12 * 3_600_000
const linkMs = 15 * 60_000
const sessionsMax = 1000
const cookie = 'twinbox_session'
const derive = promisify<string, Buffer, number, Buffer>(scrypt)

/** Who is signed in at a dashboard that no application has mounted: by a link that works once, or by user and password. */
export class SignIn {
  readonly #viewer: Viewer
  readonly #password: Password | null
  readonly #salt = randomBytes(16)
  #wanted: Promise<Buffer> | null = null
  readonly #tries = new Tries()
  readonly #base: string
  /** By the hash of what the cookie says: neither a dump nor the time that a look-up takes gives one away. */
  readonly #sessions = new Map<string, Session>()
  #once: { readonly hash: string; readonly endsAt: number } | null = null

  /** @param viewer whom the link signs in; with a password, the user's name stands for the viewer's */
  constructor(viewer: Viewer, password: Password | null, base: string) {
    this.#viewer = viewer
    this.#password = password
    this.#base = base
  }

  /** A path that signs in whoever opens it first, within a quarter of an hour. One that was made before works no more. */
  link(): string {
    const secret = randomBytes(32).toString('base64url')
    this.#once = { hash: hashOf(secret), endsAt: Date.now() + linkMs }
    return `${this.#base}/sign-in?once=${secret}`
  }

  readonly authorize = (request: Request): Viewer | null => {
    const [, secret] = /(?:^|;\s*)twinbox_session=([\w-]+)/.exec(request.headers.get('cookie') ?? '') ?? []
    const session = secret === undefined ? undefined : this.#sessions.get(hashOf(secret))
    return session !== undefined && session.endsAt > Date.now() ? session.viewer : null
  }

  /** Answers what has to do with signing in; null for all else, which needs nobody to sign in or has somebody who did. */
  async answer(request: Request, address: string): Promise<Response | null> {
    const { pathname, searchParams } = new URL(request.url)
    const isPage = request.method === 'GET' || request.method === 'HEAD'
    if (pathname === `${this.#base}/sign-in`) {
      if (request.method === 'POST') return this.#byPassword(request, address)
      if (!isPage) return null
      const once = searchParams.get('once')
      return once === null ? this.#page(request, 200, null) : this.#byLink(request, once, address)
    }
    const isAsset = pathname.startsWith(`${this.#base}/assets/`)
    const wantsPage = isPage && (request.headers.get('accept') ?? '').includes('text/html')
    if (isAsset || !wantsPage || this.authorize(request) !== null) return null
    return redirect(`${this.#base}/sign-in`)
  }

  #byLink(request: Request, secret: string, address: string): Response {
    if (!this.#tries.may(address)) return this.#tooMany(request)
    if (this.#once === null || this.#once.hash !== hashOf(secret) || this.#once.endsAt < Date.now()) {
      this.#tries.failed(address)
      return this.#page(
        request,
        403,
        'This link has been used, or is too old. Start "twinbox dashboard" again for another.',
      )
    }
    this.#once = null
    return this.#begin(this.#viewer)
  }

  async #byPassword(request: Request, address: string): Promise<Response> {
    if (this.#password === null || !isSameOrigin(request)) return this.#page(request, 403, 'Refused.')
    const form = await readForm(request)
    if (!this.#tries.may(address)) return this.#tooMany(request)
    // Counted before it is known, so that a hundred at a time are not all let through.
    this.#tries.failed(address)
    const { user, password } = this.#password
    this.#wanted ??= derive(password, this.#salt, 32)
    const [given, wanted] = await Promise.all([
      derive(form?.get('password') ?? '', this.#salt, 32),
      this.#wanted,
    ])
    // In a time that tells nothing of either.
    const isUser = timingSafeEqual(digest(form?.get('user') ?? ''), digest(user))
    if (!timingSafeEqual(given, wanted) || !isUser) {
      return this.#page(request, 403, 'User and password do not fit.')
    }
    this.#tries.succeeded(address)
    return this.#begin({ name: user, access: this.#viewer.access })
  }

  #begin(viewer: Viewer): Response {
    const secret = randomBytes(32).toString('base64url')
    this.#sessions.set(hashOf(secret), { viewer, endsAt: Date.now() + sessionMs })
    if (this.#sessions.size > sessionsMax) this.#sessions.delete(this.#sessions.keys().next().value!)
    const attributes = `Path=${this.#base || '/'}; Max-Age=${sessionMs / 1000}; SameSite=Lax; HttpOnly`
    return redirect(`${this.#base}/`, { 'set-cookie': `${cookie}=${secret}; ${attributes}` })
  }

  #tooMany(request: Request): Response {
    return this.#page(request, 429, 'Too many tries have failed. Wait a minute.')
  }

  #page(request: Request, status: number, problem: string | null): Response {
    const link = linkBelow(this.#base)
    const said = problem !== null && html`<p class="flash bad" role="alert">${problem}</p>`
    const content = html`${said}${this.#password === null ? byLink : form(link('/sign-in'))}`
    return answerHtml(status, plainPage({ title: 'Sign in', theme: readTheme(request), link }, content))
  }
}

const byLink = html`<p>Open the link that <code>twinbox dashboard</code> has printed. It works once.</p>`

const form = (action: string): Html =>
  html`<form method="post" action="${action}" class="row">
    <label>User <input name="user" autocomplete="username" required /></label>
    <label>Password <input name="password" type="password" autocomplete="current-password" required /></label>
    <button>Sign in</button>
  </form>`

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
const hashOf = (secret: string): string => digest(secret).toString('base64url')
