import widthOf from 'fast-string-truncated-width'
import { printableLine } from '../base/printable.ts'

/**
 * Columns for people: no colours, no lines that a pipe would mangle. A key in Chinese takes two columns of the terminal for
 * each character, and what stands behind it has to stand below its head all the same.
 */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  { numbers = false }: { /** All columns but the first stand on the right. */ numbers?: boolean } = {},
): string {
  const lines = [head, ...rows].map((line) =>
    line.map(cell).map((text) => ({ text, width: widthOf(text).width })),
  )
  const widths = head.map((_, column) =>
    lines.reduce((most, line) => Math.max(most, line[column]?.width ?? 0), 0),
  )
  return lines
    .map((line) =>
      line
        .map(({ text, width }, column) => {
          const space = ' '.repeat(widths[column]! - width)
          return numbers && column > 0 ? space + text : text + space
        })
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
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
