import { printableLine } from '../base/printable.ts'
import { columns, cut, cutMiddle } from './prose.ts'

export interface TableOptions {
  /** All columns but the first stand on the right. */
  readonly numbers?: boolean
  /** How many columns of a terminal there are. @default Infinity */
  readonly width?: number
  /** Heads of the columns that are left out where it is too narrow, the least important first. */
  readonly drops?: readonly string[]
  /** Heads of the columns whose cells are shortened there: names without their middle, a reason without its end. */
  readonly cuts?: Readonly<Record<string, 'middle' | 'end'>>
}

/** A name says nothing if it is shorter, and little if it is shorter than this. A sentence needs twice as much. */
const [cellMin, cellEasy] = [8, 16]

/**
 * Columns for people: no colours, no lines that a pipe would mangle. A key in Chinese takes two columns of the terminal for
 * each character, and what stands behind it has to stand below its head all the same. Too wide, it shortens cells, leaves columns out and
 * says which; in no case is a line wider.
 */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  { numbers = false, width = Infinity, drops = [], cuts = {} }: TableOptions = {},
): string {
  const cells = [head, ...rows].map((line) => line.map(cell))
  const natural = head.map((_, column) =>
    cells.reduce((most, line) => Math.max(most, columns(line[column] ?? '')), 0),
  )
  const widthsOf = (shown: readonly number[], most: number): number[] =>
    shown.map((column) => {
      const how = cuts[head[column]!]
      const limit = how === undefined ? Infinity : how === 'end' ? 2 * most : most
      return Math.min(natural[column]!, Math.max(limit, columns(head[column]!)))
    })
  const fits = (shown: readonly number[], most: number): boolean =>
    widthsOf(shown, most).reduce((sum, size) => sum + size + 2, -2) <= width
  const all = head.map((_, column) => column)
  const choices = drops.map((_, count) =>
    all.filter((column) => !drops.slice(0, count).includes(head[column]!)),
  )
  const least = all.filter((column) => !drops.includes(head[column]!))
  const shown = [...choices, least].find((some) => fits(some, cellEasy)) ?? least
  let most = Infinity
  while (most > cellMin && !fits(shown, most)) most = Math.max(cellMin, Math.min(width, most - 1))
  const widths = widthsOf(shown, most)
  const lines = cells.map((line) =>
    shown
      .map((column, place) => {
        const text = line[column] ?? ''
        const fitting = (cuts[head[column]!] === 'end' ? cut : cutMiddle)(text, widths[place]!)
        const space = ' '.repeat(Math.max(0, widths[place]! - columns(fitting)))
        return numbers && column > 0 ? space + fitting : fitting + space
      })
      .join('  ')
      .trimEnd(),
  )
  const missing = all.filter((column) => !shown.includes(column)).map((column) => head[column]!)
  if (missing.length > 0) lines.push(`(no room for ${missing.join(', ')})`)
  return lines.map((line) => cut(line, width)).join('\n')
}

/** No name is longer, and no terminal wider. What is written into the tables past Twinbox may be. */
const cellMax = 2000

const cell = (text: string): string =>
  printableLine(text.length > cellMax ? `${text.slice(0, cellMax)}…` : text)

/** In one line: a reason may hold a whole stack, and a payload megabytes. */
export function short(text: string): string {
  const line = text.slice(0, cellMax).replaceAll(/\s+/g, ' ')
  return line.length > 80 ? `${line.slice(0, 79)}…` : line
}
