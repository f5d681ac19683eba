import { describeError, OptionError, warn } from '../base/errors.ts'
import { assetAt } from './assets.ts'
import { Flashes } from './flashes.ts'
import { readForm } from './form.ts'
import { answer, answerHtml, download, redirect } from './headers.ts'
import { html, none, type Html } from './html.ts'
import { linkBelow } from './link.ts'
import { stream } from './live.ts'
import type { DashboardOptions, Viewer } from './options.ts'
import { page, plainPage } from './page.ts'
import { readTheme, setTheme } from './theme.ts'
import { isSameOrigin, Tokens } from './token.ts'
import type { Action, Context, Fields, Shared, View, Views } from './view.ts'

/** Where a request is in the dashboard: below its mount. */
interface Place {
  readonly request: Request
  readonly url: URL
  readonly base: string
  readonly path: string
}

/** Finds out who asks, whether they may, and what they ask for. */
export class Router {
  readonly #options: DashboardOptions
  readonly #shared: Shared
  readonly #views: readonly View[]
  readonly #actions: readonly Action[]
  readonly #closing: AbortSignal
  readonly #tokens: Tokens
  readonly #flashes = new Flashes()

  constructor(options: DashboardOptions, shared: Shared, { views, actions }: Views, closing: AbortSignal) {
    this.#options = options
    this.#shared = shared
    this.#views = views
    this.#actions = actions
    this.#closing = closing
    this.#tokens = new Tokens(options.secret)
  }

  async answer(request: Request, base: string): Promise<Response> {
    const url = new URL(request.url)
    const { pathname } = url
    const isBelow = pathname === base || pathname.startsWith(`${base}/`)
    // A proxy, or the framework, may have taken the mount off.
    const path = (isBelow ? pathname.slice(base.length) : pathname) || '/'
    const place: Place = { request, url, base, path }
    try {
      return await this.#guarded(place)
    } catch (error) {
      return this.#plain(place, 500, 'This did not work', describeError(error))
    }
  }

  async #guarded(place: Place): Promise<Response> {
    const { request, path } = place
    const { method } = request
    const isSafe = method === 'GET' || method === 'HEAD'
    if (isSafe && path.startsWith('/assets/')) return serveAsset(path)
    const viewer = await this.#viewerOf(request)
    if (viewer instanceof Error) {
      // Whoever reads this may be anybody: what has gone wrong in the application is none of their business.
      return this.#plain(
        place,
        500,
        'This did not work',
        'Who you are could not be found out: authorize has failed. The log of the application says why.',
      )
    }
    if (viewer === null) {
      return this.#plain(
        place,
        403,
        'Not for you',
        'You are not signed in, or have no access to this dashboard.',
      )
    }
    if (isSafe) return this.#get(place, viewer)
    if (method !== 'POST')
      return this.#plain(place, 405, 'No such method', 'Pages are read, and forms are posted.')
    return this.#post(place, viewer)
  }

  async #viewerOf(request: Request): Promise<Viewer | Error | null> {
    try {
      return checkViewer(await this.#options.authorize(request))
    } catch (error) {
      warn(`authorize of the dashboard has failed: ${describeError(error)}`)
      return new Error('authorize has failed', { cause: error })
    }
  }

  async #get(place: Place, viewer: Viewer): Promise<Response> {
    if (place.path === '/live') return this.#live(place, viewer)
    if (place.path === '/chart') {
      const after = Number(place.url.searchParams.get('after') ?? 0)
      return answer(200, JSON.stringify(this.#shared.ring.since(after)), {
        'content-type': 'application/json',
      })
    }
    const view = this.#views.find(({ path }) => path === place.path)
    if (view === undefined) {
      const context = this.#context(place, viewer)
      const back = html`<p>There is no such page. <a href="${context.link('/')}">See the overview</a>.</p>`
      return answerHtml(404, this.#page(place, context, null, 'Nothing here', back))
    }
    await this.#shared.poller.current()
    const context = this.#context(place, viewer)
    try {
      return answerHtml(200, this.#page(place, context, view, view.title, await view.render(context)))
    } catch (error) {
      const status = error instanceof OptionError ? 400 : 500
      return answerHtml(status, this.#page(place, context, view, view.title, failure(error)))
    }
  }

  #live(place: Place, viewer: Viewer): Response {
    const asked = new URL(place.url.searchParams.get('page') ?? '/', place.url)
    const view = this.#views.find(({ path }) => path === asked.pathname)
    if (view?.live === undefined) return answer(404, null)
    const at = { ...place, url: asked, path: asked.pathname }
    const signal = AbortSignal.any([place.request.signal, this.#closing])
    return stream(this.#shared.poller, view, () => this.#context(at, viewer), signal)
  }

  async #post(place: Place, viewer: Viewer): Promise<Response> {
    const { request, path } = place
    if (!isSameOrigin(request)) {
      return this.#plain(
        place,
        403,
        'Refused',
        'This form came from another site, or its browser does not say from where it came.',
      )
    }
    const form = await readForm(request)
    if (form === null)
      return this.#plain(place, 415, 'Refused', 'This is no form of this dashboard, or too long.')
    if (!this.#tokens.isOf(viewer, form.get('token'))) {
      return this.#plain(
        place,
        403,
        'Refused',
        'The page with this form is too old, or was made for somebody else. Load it again.',
      )
    }
    // What an action starts is dated by the database's clock, also where no page was loaded from this process.
    if (this.#shared.poller.latest === null) await this.#shared.poller.current()
    const context = this.#context(place, viewer)
    if (path === '/theme') return setTheme(form, context, place.base)
    const action = this.#actions.find((each) => each.path === path)
    if (action === undefined) return this.#plain(place, 404, 'Nothing here', 'There is no such action.')
    if (!context.mayOperate && action.harmless !== true) {
      return this.#plain(
        place,
        403,
        'Refused',
        `${viewer.name} may read, and not operate. Nothing was changed.`,
      )
    }
    try {
      const result = await action.run(form, context)
      if ('body' in result) return download(result)
      const { to, query, said } = result
      const flash = said === undefined ? null : this.#flashes.keep(said, viewer)
      return redirect(context.link(to, { ...query, flash }))
    } catch (error) {
      const status = error instanceof OptionError ? 400 : 500
      return answerHtml(status, this.#page(place, context, null, 'Not done', failure(error)))
    }
  }

  #context(place: Place, viewer: Viewer): Context {
    const { url, base, request } = place
    const { poller } = this.#shared
    const token = this.#tokens.of(viewer)
    const mayOperate = viewer.access === 'operate'
    const link = linkBelow(base)
    return {
      ...{ viewer, mayOperate, token, url, link },
      query: url.searchParams,
      poll: poller.latest,
      // When it is asked for: what a page reads may have happened after the page was asked for.
      get now() {
        return poller.now()
      },
      signal: request.signal,
      options: this.#shared.options,
      form: (action, fields, body) =>
        mayOperate
          ? html`<form method="post" action="${link(action)}">${hidden({ ...fields, token })}${body}</form>`
          : none,
    }
  }

  #page(place: Place, context: Context, current: View | null, title: string, content: Html): Html {
    const flash = this.#flashes.take(context.query.get('flash'), context.viewer)
    const frame = { title, theme: readTheme(place.request), link: context.link }
    return page(
      { ...frame, context, current, flash, views: this.#views, live: current?.live !== undefined },
      content,
    )
  }

  #plain({ request, base }: Place, status: number, title: string, text: string): Response {
    const frame = { title, theme: readTheme(request), link: linkBelow(base) }
    return answerHtml(status, plainPage(frame, html`<p>${text}</p>`))
  }
}

const hidden = (fields: Fields): Html[] =>
  Object.entries(fields).map(([name, value]) =>
    value === null || value === undefined
      ? none
      : html`<input type="hidden" name="${name}" value="${value}" />`,
  )

const failure = (error: unknown): Html =>
  html`<p class="flash bad" role="alert">Not done: ${describeError(error)}</p>`

function serveAsset(path: string): Response {
  const asset = assetAt(path)
  if (asset === null) return answer(404, null)
  return answer(200, asset.text, {
    'content-type': asset.type,
    'cache-control': 'public, max-age=31536000, immutable',
  })
}

/** What the user's function says; null for anything that is no viewer. */
function checkViewer(found: Viewer | null): Viewer | null {
  if (typeof found !== 'object' || found === null) return null
  const { name, access } = found
  const known = typeof name === 'string' && name !== '' && (access === 'read' || access === 'operate')
  return known ? { name, access } : null
}
