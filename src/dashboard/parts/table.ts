import { html, type Html } from '../html.ts'

export interface Column<Row> {
  readonly head: string
  /** Numbers stand to the right. */
  readonly number?: boolean
  readonly cell: (row: Row) => Html | string | number
}

/**
 * A table with a caption for those who do not see it, and the columns' words at each cell, which a narrow screen shows in a list. Without rows, `empty`
 * stands there.
 */
export function table<Row>(
  caption: string,
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  empty: Html,
): Html {
  if (rows.length === 0) return empty
  const kind = ({ number }: Column<Row>) => number === true && html` class="number"`
  return html`<div class="table" role="region" aria-label="${caption}" tabindex="0">
    <table>
      <caption>
        ${caption}
      </caption>
      <thead>
        <tr>
          ${columns.map((column) => html`<th scope="col" ${kind(column)}>${column.head}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) =>
            html`<tr>
              ${columns.map((column) => html`<td${kind(column)} data-head="${column.head}">${column.cell(row)}</td>`)}
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`
}
