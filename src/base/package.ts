import { readdirSync, readFileSync } from 'node:fs'

/**
 * What the package says outside of its code. Read from the folder here, so that no test works with yesterday's; `build.mjs` writes the
 * values into the compiled file, so that what is published reads nothing: a bundle has neither this folder nor a path to it.
 */

// Sources lie two folders deep; compiled files three, in dist as in the tests' build.
const root = new URL(import.meta.url.endsWith('.js') ? '../../../' : '../../', import.meta.url)
const read = (file: string): string => readFileSync(new URL(file, root), 'utf8')

/** The version of this package, as the table `worker` and `twinbox --version` show it. */
export const version: string = (JSON.parse(read('package.json')) as { version: string }).version

/** The files of `migrations/`, in order, each under its name without the ending. They name the schema `twinbox`. */
export const migrations: readonly { readonly name: string; readonly sql: string }[] = readdirSync(
  new URL('migrations/', root),
)
  .filter((file) => /^\d{4}_\w+\.sql$/.test(file))
  .toSorted()
  .map((file) => ({ name: file.slice(0, -'.sql'.length), sql: read(`migrations/${file}`) }))
