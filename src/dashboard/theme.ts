import { redirect } from './headers.ts'
import type { Theme } from './page.ts'
import type { Context } from './view.ts'

const cookie = 'twinbox_theme'
const yearS = 31_536_000

/** What this browser has chosen. */
export function readTheme(request: Request): Theme {
  const [, found] = /(?:^|;\s*)twinbox_theme=(dark|light)\b/.exec(request.headers.get('cookie') ?? '') ?? []
  return found === 'dark' || found === 'light' ? found : 'auto'
}

/** Keeps the choice, and goes back to the page on which it was made. */
export function setTheme(form: URLSearchParams, { link, url }: Context, base: string): Response {
  const theme = form.get('theme')
  const known = theme === 'dark' || theme === 'light'
  // Only the path and the query: wherever else a form wants to lead to is not ours.
  const back = new URL(form.get('back') ?? '/', url)
  const to =
    back.origin === url.origin && back.pathname.startsWith(`${base}/`)
      ? back.pathname + back.search
      : link('/')
  return redirect(to, {
    'set-cookie': `${cookie}=${known ? theme : ''}; Path=${base || '/'}; Max-Age=${known ? yearS : 0}; SameSite=Lax; HttpOnly`,
  })
}
