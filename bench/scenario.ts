import { InvalidArgumentError, type Command } from 'commander'
import type { Crew } from './crew.ts'
import type { Scratch } from './scratch.ts'

/** The options that all scenarios have. */
export interface Common {
  readonly database?: string
  readonly json?: boolean
}

export interface Stage {
  readonly scratch: Scratch
  readonly crew: Crew
  /** What there is to undo in the end, however it comes. */
  readonly cleanUp: (() => Promise<unknown>)[]
  /** How it is going: one line. */
  readonly say: (text: string) => void
}

export interface Outcome {
  /** For people. */
  readonly text: string
  /** For programs. Invalid figures say nothing; whether a goal was met is another matter. */
  readonly result: { readonly valid: boolean; readonly met?: boolean; readonly [name: string]: unknown }
}

/** One way to measure. */
export interface Scenario<Options extends Common> {
  readonly name: string
  /** In one sentence. */
  readonly does: string
  addOptions(command: Command): void
  run(stage: Stage, options: Options): Promise<Outcome>
}

/** Reads a number from the command line. */
export const within =
  (least: number, most: number) =>
  (text: string): number => {
    const value = Number(text)
    if (text.trim() === '' || !(value >= least && value <= most)) {
      throw new InvalidArgumentError(`It must be a number from ${least} to ${most}.`)
    }
    return value
  }

/** Reads whole numbers. */
export const count =
  (least: number, most: number) =>
  (text: string): number => {
    const value = within(least, most)(text)
    if (!Number.isInteger(value)) throw new InvalidArgumentError('It must be a whole number.')
    return value
  }
