import { createInterface } from 'node:readline/promises'
import { printableLine } from '../base/printable.ts'
import { UsageError } from '../terminal/failure.ts'
import { errColumns } from '../terminal/output.ts'
import { fold } from '../terminal/prose.ts'

/**
 * Asks before something that cannot be undone. Where nobody can be asked, it has to be said beforehand.
 * @throws UsageError
 */
export async function confirmed(what: string, yes: boolean | undefined): Promise<boolean> {
  if (yes === true) return true
  if (!process.stdin.isTTY) {
    throw new UsageError(`${what} That cannot be undone: say --yes, since nobody can be asked here.`)
  }
  const asking = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return /^y(es)?$/i.test(
      (await asking.question(fold(`${printableLine(what)} Go on? [y/N]`, errColumns()) + ' ')).trim(),
    )
  } finally {
    asking.close()
  }
}
