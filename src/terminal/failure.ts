import { OptionError } from '../base/errors.ts'
import { isInvalidUrl } from '../observe/logging.ts'

export { report, sentence } from '../observe/logging.ts'

/** The command was used wrongly: nothing was started. */
export class UsageError extends Error {}

/** 1 failed, 2 used wrongly. */
export function exitCode(error: unknown): 1 | 2 {
  return error instanceof UsageError || error instanceof OptionError || isInvalidUrl(error) ? 2 : 1
}
