import { html, type Html } from '../html.ts'
import type { Context } from '../view.ts'

interface Field {
  readonly name: string
  readonly label: string
  readonly value?: string | number | null | undefined
  readonly type?: 'text' | 'number'
  readonly required?: boolean
  readonly least?: number
  /** Values that are offered while somebody types; others are taken too. */
  readonly offered?: readonly string[] | undefined
}

/** A line to type in, with its label. */
export const field = ({ name, label, value, type = 'text', required, least, offered }: Field): Html =>
  html`<label
    >${label}
    <input
      name="${name}"
      type="${type}"
      value="${value ?? ''}"
      maxlength="1000"
      autocomplete="off"
      ${least !== undefined && html` min="${least}"`}
      ${required === true && html` required`}
      ${offered !== undefined && html` list="${name}-offered"`}
    />
    ${
      offered !== undefined &&
      html`<datalist id="${name}-offered">
        ${offered.map((each) => html`<option value="${each}"></option>`)}
      </datalist>`
    }
  </label>`

/** A choice of values, each with its word. */
export const choice = (
  name: string,
  label: string,
  chosen: string,
  values: readonly (readonly [value: string, word: string])[],
): Html =>
  html`<label
    >${label}
    <select name="${name}">
      ${values.map(
        ([value, word]) =>
          html`<option value="${value}" ${value === chosen && html` selected`}>${word}</option>`,
      )}
    </select>
  </label>`

/** A form that asks, and changes nothing: its answer is a page that can be shared. */
export const asking = ({ link }: Context, path: string, fields: readonly Html[], button: string): Html =>
  html`<form class="asking row" method="get" action="${link(path)}" role="search" aria-label="${button}">
    ${fields}
    <button>${button}</button>
  </form>`

/** The value of a field; undefined if it is empty. */
export const given = (query: URLSearchParams, name: string): string | undefined =>
  query.get(name) || undefined
