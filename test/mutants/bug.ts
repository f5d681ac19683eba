import { readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { parse } from 'yaml'

/** A bug of our own, as a file of this folder describes it. */
export interface Bug {
  readonly name: string
  /** What is broken. */
  readonly bug: string
  /** What has to find it. */
  readonly harness: string
  readonly edits: readonly Edit[]
}

interface Edit {
  readonly file: string
  /** The code that is replaced. It stands in the file once; how it is broken into lines does not matter. */
  readonly find: string
  readonly replace: string
}

const folder = 'test/mutants'

export async function readBugs(root: string): Promise<Bug[]> {
  const files = (await readdir(join(root, folder))).filter((file) => file.endsWith('.yaml')).toSorted()
  return Promise.all(
    files.map(async (file) => ({
      name: basename(file, '.yaml'),
      ...(parse(await readFile(join(root, folder, file), 'utf8')) as Omit<Bug, 'name'>),
    })),
  )
}

/** Writes it into the sources that are there. @throws where one of its texts is not in its file exactly once */
export async function plant(root: string, { edits }: Bug): Promise<void> {
  for (const edit of edits) {
    const path = join(root, edit.file)
    await writeFile(path, planted(await readFile(path, 'utf8'), edit))
  }
}

/** The text of a file with an edit in it. A replacement's lines are indented as what they replace. @throws as `plant` */
export function planted(text: string, { file, find, replace }: Edit): string {
  const places = placesOf(text, find)
  if (places.length !== 1)
    throw new Error(`This stands in ${file} ${places.length} times, instead of once:\n${find}`)
  const [start, end] = places[0]!
  const lineStart = text.lastIndexOf('\n', start) + 1
  const indent = /^\s*/.exec(text.slice(lineStart, start))![0]
  // What leaves nothing of its lines leaves no empty line either.
  if (replace === '' && lineStart + indent.length === start && text[end] === '\n')
    return text.slice(0, lineStart) + text.slice(end + 1)
  return text.slice(0, start) + replace.replaceAll('\n', `\n${indent}`) + text.slice(end)
}

/** Where a text stands in another, whatever white space there is between the characters of either. */
function placesOf(text: string, wanted: string): [start: number, end: number][] {
  const at = [...text.matchAll(/\S/g)].map(({ index }) => index)
  const bare = text.replaceAll(/\s/g, '')
  const wantedBare = wanted.replaceAll(/\s/g, '')
  const places: [number, number][] = []
  for (let from = bare.indexOf(wantedBare); from >= 0; from = bare.indexOf(wantedBare, from + 1))
    places.push([at[from]!, at[from + wantedBare.length - 1]! + 1])
  return places
}
