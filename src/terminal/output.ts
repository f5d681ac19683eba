import { printable } from '../base/printable.ts'

/** What a command has found out, for people or for programs. */
export const say = (text: string): boolean => process.stdout.write(`${printable(text)}\n`)

/** What is to be said beside, which programs that read the output do not see. */
export const remark = (text: string): boolean => process.stderr.write(`${printable(text)}\n`)
