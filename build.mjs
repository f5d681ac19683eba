import { writeFile } from 'node:fs/promises'

// The end of `npm run build`: what src/base/package.ts has read becomes part of the compiled file. The comment there says why.
const file = new URL('dist/src/base/package.js', import.meta.url)
const constants = Object.entries(await import(file.href)).map(
  ([name, value]) => `export const ${name} = ${JSON.stringify(value)};\n`,
)
await writeFile(file, constants.join(''))
