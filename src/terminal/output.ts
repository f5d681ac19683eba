import { printable, printableLine } from '../base/printable.ts'

/** The only way to the terminal: nothing else writes to standard output or standard error. */

/** What a command has found out, for people or for programs. Its line breaks are those of who calls. */
export const say = (text: string): boolean => process.stdout.write(`${printable(text)}\n`)

/** What is to be said beside, which programs that read the output do not see. In one line, whatever it quotes. */
export const remark = (text: string): boolean => process.stderr.write(`${printableLine(text)}\n`)

/** The same in several lines. */
export const remarkLines = (text: string): boolean => process.stderr.write(`${printable(text)}\n`)

/** What a shell takes for this text and nothing else, for a command to be pasted. */
export const quoted = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`
