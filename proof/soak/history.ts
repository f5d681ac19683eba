import { closeSync, createReadStream, openSync, readdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

/**
 * What one process did, a line each, written before it is risked and after it has come out. The page cache has a line
 * as soon as it is written, so that SIGKILL loses none. Fields are separated by tabs; the first is the machine's monotonic
 * clock in microseconds, alike in all processes, the second a word.
 */
export class History {
  readonly #file: number

  constructor(path: string) {
    this.#file = openSync(path, 'a')
  }

  note(...fields: readonly (string | number)[]): void {
    writeSync(this.#file, `${now()}\t${fields.join('\t')}\n`)
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** The machine's monotonic clock, in microseconds. */
export const now = (): number => Number(process.hrtime.bigint() / 1000n)

/** All lines of all histories in a folder that `wants` lets through, with the process that wrote them. */
export async function* readHistories(
  folder: string,
  wants: (line: string) => boolean,
): AsyncGenerator<{ readonly by: string; readonly fields: readonly string[] }> {
  for (const name of readdirSync(folder).toSorted()) {
    if (!name.endsWith('.tsv')) continue
    const lines = createInterface({ input: createReadStream(join(folder, name)), crlfDelay: Infinity })
    for await (const line of lines) {
      if (wants(line)) yield { by: name.slice(0, -4), fields: line.split('\t') }
    }
  }
}
