import { readFileSync } from 'node:fs'

/**
 * The files that browsers load. Read from the folders here; `build.mjs` writes them into the compiled file, so that what is
 * published reads nothing: a bundle has neither these folders nor a path to them.
 */

const root = new URL(import.meta.url.endsWith('.js') ? '../../../' : '../../', import.meta.url)
const read = (file: string): string => readFileSync(new URL(file, root), 'utf8')
const library = 'node_modules/uplot/'

/** By name. The chart library comes with its licence. */
export const files: Readonly<Record<string, string>> = {
  'style.css': [
    ...['style', 'views'].map((name) => read(`src/dashboard/assets/${name}.css`)),
    read(`${library}dist/uPlot.min.css`),
  ].join('\n'),
  'dashboard.js': read('src/dashboard/assets/dashboard.js'),
  'uplot.js': `/*\n${read(`${library}LICENSE`).trim()}\n*/\n${read(`${library}dist/uPlot.iife.min.js`)}`,
}
