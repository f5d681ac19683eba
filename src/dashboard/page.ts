import { assetPath } from './assets.ts'
import { html, type Html } from './html.ts'
import type { Context, Flash, View } from './view.ts'

export type Theme = 'auto' | 'dark' | 'light'

/** What a page has around its content. */
interface Frame {
  readonly title: string
  readonly theme: Theme
  readonly link: Context['link']
}

/** A page for somebody who is signed in: navigation, a heading, what the last action said, and the content. */
export function page(
  frame: Frame & {
    readonly context: Context
    readonly views: readonly View[]
    readonly current: View | null
    readonly flash: Flash | null
    /** How the page begins, for the stream; null for one that does not move. */
    readonly live: boolean
  },
  content: Html,
): Html {
  const { context, views, current, flash, title } = frame
  const items = views
    .filter(({ nav }) => nav !== undefined)
    .map(
      (view) =>
        html`<li>
          <a href="${context.link(view.path)}" ${view === current && html` aria-current="page"`}
            >${view.nav}</a
          >
        </li>`,
    )
  const { name, access } = context.viewer
  const stream =
    frame.live &&
    html` data-stream="${context.link('/live', { page: `${current!.path}${context.url.search}` })}"`
  return document(
    frame,
    html`<a class="skip" href="#content">Skip to the content</a>
      <header class="top">
        <a class="brand" href="${context.link('/')}">Twinbox</a>
        <nav aria-label="Views">
          <ul>
            ${items}
          </ul>
        </nav>
        <div class="who">
          <span
            >${name} <span class="access">${access === 'operate' ? 'may operate' : 'may read'}</span></span
          >
          ${themes(frame, context)}
        </div>
      </header>
      <main id="content" tabindex="-1" ${stream}>
        <h1>${title}</h1>
        ${flash !== null && html`<p class="flash ${flash.tone}" role="status">${tones[flash.tone]} ${flash.text}</p>`}
        ${content}
      </main>`,
  )
}

const tones = { good: 'Done:', bad: 'Not done:', note: 'Note:' } as const

const themes = ({ theme }: Frame, context: Context): Html =>
  html`<form class="theme" method="post" action="${context.link('/theme')}">
    <input type="hidden" name="token" value="${context.token}" />
    <input type="hidden" name="back" value="${context.url.pathname}${context.url.search}" />
    ${(['auto', 'light', 'dark'] as const).map(
      (each) =>
        html`<button name="theme" value="${each}" aria-pressed="${each === theme ? 'true' : 'false'}">
          ${each}
        </button>`,
    )}
  </form>`

/** A page for anybody: a refusal, or the sign-in. */
export const plainPage = (frame: Frame, content: Html): Html =>
  document(
    frame,
    html`<main id="content" class="plain">
      <h1>${frame.title}</h1>
      ${content}
    </main>`,
  )

const document = ({ title, theme, link }: Frame, body: Html): Html =>
  html`<!doctype html>
    <html lang="en" data-theme="${theme}">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>${title} · Twinbox</title>
        <link rel="icon" href="data:," />
        <link rel="stylesheet" href="${link(assetPath('style.css'))}" />
        <script
          type="module"
          src="${link(assetPath('dashboard.js'))}"
          data-charts="${link(assetPath('uplot.js'))}"
        ></script>
      </head>
      <body>
        ${body}
      </body>
    </html> `
