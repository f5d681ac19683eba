/** What is no statement of its own: strings, names, dollar quotes and comments, each to its end or to that of the text. */
const inert =
  /\be'(?:\\[^]|''|[^'\\])*(?:'|$)|'[^']*(?:'|$)|"[^"]*(?:"|$)|\$((?:[a-z_]\w*)?)\$[^]*?(?:\$\1\$|$)|--[^\n]*|\/\*[^]*?(?:\*\/|$)/gi
const mayControl = /\b(?:begin|start|commit|end|abort|rollback|prepare)\b/i
const begins = /^\s*(?:begin|start\s+transaction)\b/i
const ends =
  /^\s*(?:commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b))\b/i

/**
 * Whether a text has a statement that begins or ends a transaction. A savepoint does neither. Read as the server would split it,
 * since one text may hold many statements.
 */
export function controlIn(text: string): 'begin' | 'end' | null {
  // Nearly all that libraries send has none of these words, and need not be read closely.
  if (!mayControl.test(text)) return null
  // A comment stands for white space, all else for a word.
  const bare = text.replaceAll(inert, (found) => (/^(?:--|\/\*)/.test(found) ? ' ' : ' x '))
  // The body of a function has an END of its own.
  if (/\bbegin\s+atomic\b/i.test(bare)) return null
  const statements = bare.split(';')
  if (statements.some((statement) => ends.test(statement))) return 'end'
  return statements.some((statement) => begins.test(statement)) ? 'begin' : null
}
