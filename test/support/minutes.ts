import { appendFileSync } from 'node:fs'
import type { Reporter, TestModule } from 'vitest/node'

/**
 * Prints at the end of a run how many minutes each tag took, from its first file's start to its last file's end. The name of each
 * that begins goes to the file that `TWINBOX_TEST_TELL` names, for who waits for that.
 */
export default class Minutes implements Reporter {
  readonly #spans = new Map<
    string,
    { from: number; to: number; busyMs: number; files: number; tests: number }
  >()

  onTestModuleStart({ project }: TestModule): void {
    if (this.#spans.has(project.name)) return
    const told = process.env['TWINBOX_TEST_TELL'] ?? ''
    if (told !== '') appendFileSync(told, `${project.name}\n`)
    this.#spans.set(project.name, { from: performance.now(), to: 0, busyMs: 0, files: 0, tests: 0 })
  }

  onTestModuleEnd(module: TestModule): void {
    const span = this.#spans.get(module.project.name)
    if (span === undefined) return
    span.to = performance.now()
    span.files++
    span.tests += [...module.children.allTests()].length
    span.busyMs += module.diagnostic().duration + module.diagnostic().collectDuration
  }

  onTestRunEnd(): void {
    for (const [tag, { from, to, busyMs, files, tests }] of this.#spans) {
      const minutes = (ms: number): string => (ms / 60_000).toFixed(1)
      process.stdout.write(
        `${tag.padEnd(18)}${minutes(to - from).padStart(5)} min, ${minutes(busyMs)} of tests: ${tests} in ${files} files\n`,
      )
    }
  }
}
