import { html, type Html } from '../html.ts'

/** How something stands: always a sign and a word, never a colour alone. */
export type Tone = 'good' | 'warn' | 'bad' | 'note'

const signs: Readonly<Record<Tone, string>> = { good: '●', warn: '▲', bad: '■', note: '○' }

export const badge = (tone: Tone, word: string): Html =>
  html`<span class="badge ${tone}"><span aria-hidden="true">${signs[tone]}</span> ${word}</span>`
