import { writeFile } from 'node:fs/promises'

// The end of `npm run build`: what these files have read becomes part of the compiled ones. The comments there say why.
const base = new URL('dist/src/base/package.js', import.meta.url)
const constants = Object.entries(await import(base.href)).map(
  ([name, value]) => `export const ${name} = ${JSON.stringify(value)};\n`,
)
await writeFile(base, constants.join(''))

const assets = new URL('dist/src/dashboard/files.js', import.meta.url)
const { files } = await import(assets.href)
await writeFile(assets, `export const files = ${JSON.stringify(files)};\n`)
