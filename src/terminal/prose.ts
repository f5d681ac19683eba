import widthOf from 'fast-string-truncated-width'

/** Where nobody says how wide a terminal is, and for help that is piped. */
export const plainColumns = 80

/** How many columns a line may have there. Not in a pipe: what reads it wants whole lines. */
export const columnsOf = (stream: { readonly isTTY?: boolean; readonly columns?: number }): number =>
  stream.isTTY === true ? stream.columns || plainColumns : Infinity

/**
 * Breaks lines at words. What follows a break stands below what it belongs to: behind a name and two spaces, or as far in as its
 * line; so no line begins with what somebody has sent. A word that is wider stays whole, since a URL or an id is to be copied;
 * and so does a command to be pasted, `$ …`.
 */
export function fold(text: string, width: number, hang = 2): string {
  if (width === Infinity) return text
  return text
    .split('\n')
    .map((line) => foldLine(line, width, hang))
    .join('\n')
}

/** A name may have so much of the width. */
const nameShare = 0.3
const named = /^ *\S+(?: \S+)* {2,}(?=\S)/
const command = /^ *\$ /
/** A short command in a sentence, "npx twinbox migrate", is one word. */
const words = / *(?:"[!#-~][ !#-~]{1,22}"[.,:;)]*(?= |$)|[^ ]+)/g

function foldLine(line: string, width: number, hang: number): string {
  if (columns(line) <= width) return line
  const beginning = named.exec(line)?.[0] ?? ''
  if (beginning === '' && command.test(line)) return line
  const spaces = /^ */.exec(line)![0].length
  const column = columns(beginning)
  const indent = ' '.repeat(
    beginning === '' || column > nameShare * width ? Math.min(spaces + hang, width / 2) : column,
  )
  const lines: string[] = []
  let current = line.slice(0, spaces)
  let taken = spaces
  let empty = true
  // With the spaces before it, of which a break leaves none.
  for (const word of line.slice(spaces).match(words) ?? []) {
    const size = columns(word)
    if (empty || taken + size <= width) {
      current += word
      taken += size
    } else {
      lines.push(current)
      current = indent + word.trimStart()
      taken = columns(current)
    }
    empty = false
  }
  return [...lines, current].join('\n')
}

/** A text as it stands in a program: lines of a paragraph become one. What is indented, or is a name and two spaces, is a line by itself. */
export function unfold(text: string): string {
  const isRunning = (line: string | undefined): boolean => line !== undefined && /^\S(?!.* {2})/.test(line)
  const lines: string[] = []
  for (const line of text.split('\n')) {
    if (isRunning(lines.at(-1)) && isRunning(line)) lines.push(`${lines.pop()} ${line}`)
    else lines.push(line)
  }
  return lines.join('\n')
}

/** Of a terminal. */
export const columns = (text: string): number => widthOf(text).width

const characters = new Intl.Segmenter()

/** As much of a text as fits, with an ellipsis if that is not all. Of a picture that is made of several characters, all or nothing. */
export function cut(text: string, width: number, ellipsis = '…'): string {
  if (columns(text) <= width) return text
  let shown = ''
  for (const { segment } of characters.segment(text)) {
    if (columns(shown + segment + ellipsis) > width) break
    shown += segment
  }
  return shown + ellipsis
}

/** The same without its middle: consumers differ in their beginning, hosts of a fleet in their end. */
export function cutMiddle(text: string, width: number): string {
  if (columns(text) <= width) return text
  let end = ''
  for (const { segment } of [...characters.segment(text)].toReversed()) {
    if (columns(segment + end) > (width - 1) / 2) break
    end = segment + end
  }
  return cut(text, width - columns(end)) + end
}
