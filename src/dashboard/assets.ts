import { createHash } from 'node:crypto'
import { files } from './files.ts'

const hashOf = (text: string): string => createHash('sha256').update(text).digest('base64url').slice(0, 16)
const hashes = Object.fromEntries(Object.entries(files).map(([name, text]) => [name, hashOf(text)]))

/** Below the mount, with a hash of the content, so that browsers keep it for good. */
export const assetPath = (name: string): string => `/assets/${hashes[name]!}/${name}`

const types: Readonly<Record<string, string>> = { css: 'text/css', js: 'text/javascript' }

/** The file of a path, or null. */
export function assetAt(path: string): { readonly text: string; readonly type: string } | null {
  const [, folder, hash, name = ''] = path.split('/')
  if (folder !== 'assets' || !Object.hasOwn(files, name) || hashes[name] !== hash) return null
  return { text: files[name]!, type: `${types[name.split('.').pop()!]!}; charset=utf-8` }
}
