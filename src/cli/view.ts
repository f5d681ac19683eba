import progress from 'cli-progress'
import { remark } from './output.ts'

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
  return process.stderr.isTTY ? new Live() : new Lines()
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

class Live implements View {
  #bars: progress.MultiBar | null = null
  #published: progress.SingleBar | null = null
  #handled: progress.SingleBar | null = null
  #describe = (): readonly string[] => []
  readonly #lines: progress.SingleBar[] = []

  say(text: string): void {
    if (this.#bars === null) remark(text)
    else this.#bars.log(`${text}\n`)
  }
  show(messages: number, lines: () => readonly string[]): void {
    this.#describe = lines
    this.#bars = new progress.MultiBar(
      {
        stream: process.stderr,
        hideCursor: true,
        format: '{what} {bar} {value}/{total}',
        barsize: 40,
        emptyOnZero: true,
      },
      progress.Presets.shades_grey,
    )
    this.#published = this.#bars.create(messages, 0, { what: 'published' })
    this.#handled = this.#bars.create(messages, 0, { what: 'handled  ' })
  }
  update(published: number, handled: number): void {
    if (this.#bars === null) return
    this.#published?.update(published)
    this.#handled?.update(handled)
    for (const [index, text] of this.#describe().entries()) {
      this.#lines[index] ??= this.#bars.create(1, 0, { text: '' }, { format: '  {text}' })
      this.#lines[index].update(1, { text })
    }
    this.#bars.update()
  }
  end(): void {
    this.#bars?.stop()
    this.#bars = null
  }
}
