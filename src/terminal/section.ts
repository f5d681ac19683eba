/** A part of a picture: a table with its heading, or some sentences. */
export interface Section {
  readonly lines: readonly string[]
  /** How many of them are the heading. */
  readonly heads: number
  /** What stays below, whatever is cut. */
  readonly foot: readonly string[]
}

export const section = (text: string, foot: readonly string[] = [], heads = 1): Section => ({
  lines: text.split('\n'),
  heads,
  foot,
})

/**
 * Sections below each other, with an empty line between. On a screen of so many rows the longest are cut first, as often as it
 * takes: each keeps its heading and what stands below it, and says how many lines are missing.
 */
export function fit(picture: string | readonly Section[], height = Infinity): string {
  const sections = typeof picture === 'string' ? [section(picture)] : picture
  // How many lines each may have, with the one that says how many are missing.
  const sizes = sections.map(({ lines }) => lines.length)
  const total = (): number =>
    sections.reduce((sum, { foot }, place) => sum + sizes[place]! + foot.length + 1, -1)
  while (total() > height) {
    const rows = sections.map(({ heads }, place) => sizes[place]! - heads)
    const most = Math.max(...rows)
    // One line says that there is more.
    if (most <= 1) break
    sizes[rows.lastIndexOf(most)]!--
  }
  const parts = sections.map(({ lines, foot }, place) =>
    [...cropped(lines, sizes[place]!), ...foot].join('\n'),
  )
  return cropped(parts.join('\n\n').split('\n'), height).join('\n')
}

function cropped(lines: readonly string[], most: number): readonly string[] {
  if (lines.length <= most) return lines
  const shown = Math.max(0, most - 1)
  const more = lines.length - shown
  return [...lines.slice(0, shown), `… ${more} more ${more === 1 ? 'line' : 'lines'}`]
}
