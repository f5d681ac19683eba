import type { Command } from 'commander'
import { signed } from './signature.ts'
import type { TargetFlags } from './privacy.ts'

/** Adds the commands for what is stored of one person. What they do is loaded when they run. */
export function addErasing(
  program: Command,
  common: (command: Command) => Command,
  exit: (code: 0 | 1) => void,
): void {
  const targeted = (command: Command): Command =>
    common(command)
      .option('--key <key>', 'all of this key')
      .option('--id <id>', 'the message with this id')
      .option('--dedupe-key <key>', 'what was published with this dedupe key, while its window lasts')
      .option('--consumer <name>', 'only at this consumer')
      .option('--outbox', 'only in the outbox')
      .option('--topic <name>', 'only of this topic')

  signed(targeted(program.command('erase')))
    .description('Erase all that the tables hold of a key or of a message. The workers need not be stopped.')
    .option('--dry-run', 'only say how many rows; change nothing')
    .option('-y, --yes', 'do not ask')
    .addHelpText(
      'after',
      `
What a worker has in flight is rolled back. The audit keeps who, why and how many rows. Not erased: copies at the
broker, in backups and in the WAL; remembered ids, so that a redelivery is not handled; schedules, which are named.

Examples:
  $ twinbox erase --key customer-17 --dry-run
  $ twinbox erase --key customer-17 --reason 'request 4711' --yes
  $ twinbox erase --id 0197a0c2-7d3e-7c11-9b7e-1f2a3b4c5d6e --consumer billing`,
    )
    .action(async (flags: TargetFlags) => {
      const { erase } = await import('./privacy.ts')
      exit(await erase(flags))
    })
  targeted(program.command('export'))
    .description('Write all messages of a key or an id whole, payloads included, one JSON object a line.')
    .option('-o, --out <file>', 'a file that does not exist yet (default: standard output)')
    .addHelpText(
      'after',
      `
Examples:
  $ twinbox export --key customer-17 --out customer-17.jsonl
  $ twinbox export --dedupe-key signup-17 | jq .payload`,
    )
    .action(async (flags: TargetFlags) => {
      const { exportAll } = await import('./privacy.ts')
      await exportAll(flags)
    })
}
