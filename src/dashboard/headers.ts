import type { Html } from './html.ts'
import type { Download } from './view.ts'

/** What every answer says. No script or style but our own files, no frame, no other host. */
const guarding: Readonly<Record<string, string>> = {
  'content-security-policy': [
    ...["default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:"],
    ...["connect-src 'self'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"],
  ].join('; '),
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'same-origin',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
}

/** An answer. It is stored nowhere unless `more` says otherwise. */
export const answer = (
  status: number,
  body: string | ReadableStream<Uint8Array> | null,
  more: Readonly<Record<string, string>> = {},
): Response => new Response(body, { status, headers: { ...guarding, 'cache-control': 'no-store', ...more } })

export const answerHtml = (status: number, page: Html): Response =>
  answer(status, page.toString(), { 'content-type': 'text/html; charset=utf-8' })

/** To one of our pages, to be read by GET. */
export const redirect = (location: string, more: Readonly<Record<string, string>> = {}): Response =>
  answer(303, null, { location, ...more })

/** A file to be kept, which no browser shows by itself. */
export const download = ({ file, type, body }: Download): Response =>
  answer(200, body, { 'content-type': type, 'content-disposition': `attachment; filename="${file}"` })
