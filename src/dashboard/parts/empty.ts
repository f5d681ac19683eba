import { html, type Html } from '../html.ts'

/** Where there is nothing to list: what that means, and what would make something appear. */
export const empty = (means: string, how: Html | string): Html =>
  html`<div class="empty">
    <p><strong>${means}</strong></p>
    <p>${how}</p>
  </div>`
