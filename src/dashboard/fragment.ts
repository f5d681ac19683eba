import { html, type Html } from './html.ts'

/** An element that the stream replaces when a poll has changed what it holds. The same name stands in the view's `live`. */
export const fragment = (name: string, content: Html): Html => html`<div data-live="${name}">${content}</div>`
