import { clearScreenDown, moveCursor } from 'node:readline'
import { printableLine } from '../../src/base/printable.ts'
import { remark } from '../../src/terminal/output.ts'
import { cut, plainColumns } from '../../src/terminal/prose.ts'

/** How far a command is, on standard error: bars and lines, or one line a second without a terminal. */
export interface View {
  /** What is going on, or something worth knowing that has happened. */
  say(text: string): void
  /** From now on there are numbers, and something to tell beside them: a line each, or in short. */
  show(messages: number, lines: () => readonly string[], summary: () => string): void
  update(published: number, handled: number): void
  end(): void
}

export function createView(): View {
  // A dumb terminal, such as that of an editor, cannot go back to a line.
  return process.stderr.isTTY && process.env['TERM'] !== 'dumb' ? new Live() : new Lines()
}

class Lines implements View {
  #summary = (): string => ''
  #messages = 0
  #saidAt = 0

  say(text: string): void {
    remark(text)
  }
  show(messages: number, _: () => readonly string[], summary: () => string): void {
    this.#messages = messages
    this.#summary = summary
  }
  update(published: number, handled: number): void {
    if (performance.now() - this.#saidAt < 1000) return
    this.#saidAt = performance.now()
    this.say(`published ${published}/${this.#messages}, handled ${handled}; ${this.#summary()}`)
  }
  end(): void {}
}

/** Drawn anew over itself at each update, ten times a second at most. Nothing else may write to the terminal meanwhile. */
class Live implements View {
  #messages = 0
  #describe: (() => readonly string[]) | null = null
  #counts: readonly [published: number, handled: number] = [0, 0]
  #drawn = 0
  #drawnAt = 0

  say(text: string): void {
    this.#replace(() => void remark(text))
  }
  show(messages: number, lines: () => readonly string[]): void {
    this.#messages = messages
    this.#describe = lines
    this.#replace()
  }
  update(published: number, handled: number): void {
    this.#counts = [published, handled]
    if (performance.now() - this.#drawnAt >= 100) this.#replace()
  }
  end(): void {
    this.#replace()
    this.#describe = null
    this.#drawn = 0
  }

  #replace(above = (): void => {}): void {
    const { stderr } = process
    // One write: a terminal that shows the empty place first flickers.
    stderr.cork()
    if (this.#drawn > 0) {
      moveCursor(stderr, 0, -this.#drawn)
      clearScreenDown(stderr)
    }
    above()
    // What the terminal breaks or scrolls away is not drawn over again, and would stay.
    const lines = this.#lines().slice(0, (stderr.rows || 24) - 1)
    for (const line of lines) remark(cut(printableLine(line), (stderr.columns || plainColumns) - 1, ''))
    this.#drawn = lines.length
    this.#drawnAt = performance.now()
    stderr.uncork()
  }

  #lines(): string[] {
    if (this.#describe === null) return []
    const [published, handled] = this.#counts
    return [
      `published ${bar(published, this.#messages)}`,
      `handled   ${bar(handled, this.#messages)}`,
      ...this.#describe().map((line) => `  ${line}`),
    ]
  }
}

const barColumns = 40

/** How many of how many. */
function bar(count: number, all: number): string {
  const full = all === 0 ? 0 : Math.round(barColumns * Math.min(1, count / all))
  return `${'\u2588'.repeat(full)}${'\u2591'.repeat(barColumns - full)} ${count}/${all}`
}
