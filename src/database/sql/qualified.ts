/**
 * Names that are the same on any search_path, for what runs on connections of the user's: a type, a function or an operator in
 * a schema that stands before pg_catalog in their path would be taken otherwise, however well pg_catalog's own fits. Functions
 * are written out, `pg_catalog.now()`. Not so `unnest` of several arrays, `extract`, `coalesce`, `greatest` and `case` without
 * an operand: these are grammar. And no `between`, `in`, `nullif`, `using`, `like` or `is distinct from`, each of which looks up an operator.
 */

/** An operator of pg_catalog. All have one precedence, from left to right: parentheses say what comes first. */
export const op = (symbol: string): string => `operator(pg_catalog.${symbol})`

/** Types that are words of the grammar. */
const words = new Set(['int', 'bigint', 'smallint', 'boolean', 'numeric'])

/** A cast to the types of a parameter, one after the other. */
export const castTo = (types: string): string =>
  types
    .split('::')
    .map((type) => (words.has(type.replace('[]', '')) ? `::${type}` : `::pg_catalog.${type}`))
    .join('')

/** The oid of one of our tables, as the space of advisory locks. */
export const lockSpace = (s: string, table: string): string =>
  `'${s}.${table}'::pg_catalog.regclass::pg_catalog.oid::int`

/** What `joined` has made, as an array; what was null is the empty text, or null again. */
export const parted = (parameter: string, empty: 'empty' | 'null' = 'empty'): string =>
  `pg_catalog.string_to_array(${parameter}, E'\\x1e'::pg_catalog.text${empty === 'null' ? `, ''::pg_catalog.text` : ''})`
