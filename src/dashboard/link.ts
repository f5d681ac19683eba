import type { Fields } from './view.ts'

/** URLs of our own paths below a mount. */
export const linkBelow =
  (base: string) =>
  (path: string, query: Fields = {}): string => {
    const given = Object.entries(query).flatMap(([name, value]): [string, string][] =>
      value === null || value === undefined || value === '' ? [] : [[name, String(value)]],
    )
    return `${base}${path}${given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`}`
  }
