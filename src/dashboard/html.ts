import { printable } from '../base/printable.ts'

/**
 * Text that is HTML already. Only `html` makes it, and escapes all that is put into it: topics, keys, errors and headers are
 * written by strangers, and a dashboard is read by those who may redrive and erase.
 */
export class Html {
  readonly #text: string

  private constructor(text: string) {
    this.#text = text
  }

  /** Of literal text and values: see `html`. */
  static from(pieces: readonly string[], values: readonly unknown[]): Html {
    return new Html(
      pieces.map((piece, index) => (index === 0 ? piece : shown(values[index - 1]) + piece)).join(''),
    )
  }

  toString(): string {
    return this.#text
  }
}

/**
 * HTML with values in it. Text and numbers are escaped, also for attributes, which are always written in double quotes; what
 * turns the direction of a line or commands a terminal is shown by its number. Lists are joined. Null, undefined and false are nothing.
 */
export const html = (pieces: TemplateStringsArray, ...values: unknown[]): Html => Html.from(pieces, values)

/** Nothing. */
export const none = html``

function shown(value: unknown): string {
  if (value === null || value === undefined || value === false) return ''
  if (value instanceof Html) return value.toString()
  if (Array.isArray(value)) return value.map(shown).join('')
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint')
    return escape(String(value))
  throw new TypeError(`A value of type ${typeof value} has no place in HTML.`)
}

const escape = (text: string): string => printable(text).replaceAll(/[&<>"']/g, (sign) => entities[sign]!)

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}
