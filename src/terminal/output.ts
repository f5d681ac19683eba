import { printable, printableLine } from '../base/printable.ts'
import { columnsOf, fold } from './prose.ts'
import { table, type TableOptions } from './table.ts'

/** The only way to the terminal: nothing else writes to standard output or standard error. */

/** What a command has found out, for people or for programs. Its line breaks are those of who calls. */
export const say = (text: string): boolean => process.stdout.write(`${printable(text)}\n`)

/** How many columns a line of standard output, or of standard error, may have. */
export const outColumns = (): number => columnsOf(process.stdout)
export const errColumns = (): number => columnsOf(process.stderr)

/** Broken at words where the terminal ends, to be said. */
export const folded = (text: string): string => fold(text, outColumns())

/** The same for people alone, broken at words where their terminal ends. */
export const explain = (text: string): boolean => say(folded(printable(text)))

/** A table for people, as wide as their terminal. In a pipe it is whole. */
export const sayTable = (
  head: readonly string[],
  rows: readonly (readonly string[])[],
  options: Omit<TableOptions, 'width'> = {},
): boolean => say(table(head, rows, { ...options, width: outColumns() }))

/** What is to be said beside, which programs that read the output do not see. Begun in one line, whatever it quotes. */
export const remark = (text: string): boolean => remarkLines(printableLine(text))

/** The same in several lines. */
export const remarkLines = (text: string): boolean =>
  process.stderr.write(`${fold(printable(text), errColumns())}\n`)

/** What a shell takes for this text and nothing else, for a command to be pasted. */
export const quoted = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`
