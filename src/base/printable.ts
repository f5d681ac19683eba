/**
 * Text from outside as it may be shown. A key or an error can hold what commands a terminal (ESC, BEL, C1), what turns the
 * direction of what stands behind it, and line breaks that make two log lines of one: each is shown by its number, in the
 * way of JSON, so JSON stays the same JSON.
 */
export const printable = (text: string): string => text.replaceAll(commands, escape)

/** The same in one line. */
export const printableLine = (text: string): string => text.replaceAll(commandsAndBreaks, escape)

/** The same, and no longer than a cell of a table or a label of a metric may be. */
export const printableLabel = (text: string): string => {
  const line = printableLine(text.slice(0, labelMax + 1))
  return line.length > labelMax ? `${line.slice(0, labelMax - 1).toWellFormed()}…` : line
}

/** Longer than any topic, key or consumer that Twinbox lets through. */
const labelMax = 300

const commands =
  // eslint-disable-next-line no-control-regex
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]/g
const commandsAndBreaks =
  // eslint-disable-next-line no-control-regex
  /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]/g

const escape = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`

/**
 * Without the passwords of URLs, up to the last @ of a word: a password may contain one. Word by word, in linear time: a
 * handler's error may quote 60 kB of somebody's payload.
 */
export function redact(text: string): string {
  if (!text.includes('@')) return text
  return text.replaceAll(/\S+/g, (word) => {
    const end = word.lastIndexOf('@')
    const start = end < 0 ? Infinity : passwordAt(word)
    return start > end ? word : `${word.slice(0, start)}***${word.slice(end)}`
  })
}

/** The same of a beginning of so many characters. Where it ends within a password, nobody knows how much more there would be of that. */
export function redactCut(text: string, length: number): string {
  if (text.length <= length) return redact(text)
  const words = text.slice(0, length).split(/(\s)/)
  const last = words.pop()!
  const start = passwordAt(last)
  return redact(words.join('')) + (start === Infinity ? last : `${last.slice(0, start)}***`)
}

/** Where the password of a URL would begin in a word. */
function passwordAt(word: string): number {
  const user = /[a-z][a-z0-9+.-]{0,30}:\/\/[^\s:/@]*:/i.exec(word)
  return user === null ? Infinity : user.index + user[0].length
}
