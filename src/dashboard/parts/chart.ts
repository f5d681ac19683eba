import { html, type Html } from '../html.ts'

export interface Chart {
  readonly title: string
  /** Which of the ring's columns are its lines; of which box, or of all of them. */
  readonly lines: readonly ('depth' | 'lag' | 'in' | 'out')[]
  readonly box?: string
  readonly unit: string
}

/** A place for a chart, which the script fills from `source`. Without the script there is none: the numbers stand in the table. */
export const chart = ({ title, lines, box, unit }: Chart, source: string): Html =>
  html`<figure
    class="chart"
    hidden
    data-chart="${source}"
    data-lines="${lines.join(' ')}"
    data-box="${box}"
    data-unit="${unit}"
  >
    <figcaption>${title}</figcaption>
    <div
      class="plot"
      role="img"
      aria-label="${title}, of the last hour at most: the latest values stand in the table above"
    ></div>
  </figure>`
