import { Argument, Option, type Command } from 'commander'
import type { PruneKind } from '../database/sql/upkeep.ts'
import type { CommonFlags } from '../terminal/flags.ts'
import type { ChangeFlags } from './letters.ts'
import { duration } from '../terminal/parse.ts'
import { signed, type SignatureFlags } from './signature.ts'
import type { ScheduleFlags } from './times.ts'

const pruneKinds: readonly PruneKind[] = ['dedupe', 'seen', 'workers', 'handled', 'dead', 'audit']

/** Adds the commands for what goes by time: recurring messages, and what is kept for how long. */
export function addTimes(
  program: Command,
  common: (command: Command) => Command,
  exit: (code: 0 | 1) => void,
): void {
  const schedules = program
    .command('schedules')
    .description('Recurring messages.')
    .addHelpText(
      'after',
      `
Examples:
  $ twinbox schedules list
  $ twinbox schedules add daily-report '0 6 * * 1-5' --zone Europe/Berlin \\
      --topic report.due --payload '{"of":"day"}'
  $ twinbox schedules pause daily-report --reason 'books are closed'`,
    )
  common(schedules.command('list'))
    .description('List them, with their last and next times.')
    .action(async (flags: CommonFlags) => {
      const { listSchedules } = await import('./times.ts')
      await listSchedules(flags)
    })
  signed(common(schedules.command('add')))
    .description('Add one, or change it to this. The relays publish it.')
    .argument('<name>', '1 to 100 characters of A-Z a-z 0-9 . _ -')
    .argument('<cron>', 'five fields, or six with seconds before them')
    .requiredOption('--topic <name>', 'what it publishes')
    .option('--key <key>', 'the ordering key')
    .option('--payload <json>', 'the payload (default: null)')
    .option('--zone <name>', 'whose clock counts (default: UTC)')
    .addOption(
      new Option('--catch-up <policy>', 'what becomes of missed ticks (default: one)').choices([
        'one',
        'skip',
        'all',
      ]),
    )
    .option('--expires-after <time>', 'how long after its tick it may be handled, such as 2h', duration)
    .action(async (name: string, cron: string, flags: ScheduleFlags) => {
      const { addSchedule } = await import('./times.ts')
      await addSchedule(name, cron, flags)
    })
  for (const [action, does] of [
    ['remove', 'Remove one. What it has published is not taken back.'],
    ['pause', 'Publish no more of it, until resumed.'],
    ['resume', 'Go on with the first tick from now on.'],
  ] as const) {
    const command = signed(common(schedules.command(action)))
      .description(does)
      .argument('<name>', 'as in the list')
    if (action === 'remove') command.option('-y, --yes', 'do not ask')
    command.action(async (name: string, flags: CommonFlags & SignatureFlags & { yes?: boolean }) => {
      const { changeSchedule } = await import('./times.ts')
      exit(await changeSchedule(action, name, flags))
    })
  }

  signed(common(program.command('prune')))
    .description('Delete what has outlived its use, in batches. Never what has not been handled.')
    .addArgument(new Argument('<kind>', 'of what').choices(pruneKinds))
    .option('--older-than <time>', 'how old it has to be, such as 30d; not for dedupe', duration)
    .option('--consumer <name>', 'only that of this consumer')
    .option('--outbox', 'only that of the outbox')
    .option('--dry-run', 'only say how much; change nothing')
    .option('-y, --yes', 'do not ask')
    .addHelpText(
      'after',
      `
dedupe   dedupe keys past their window
seen     ids of received messages: their redelivery is handled again
workers  workers that have ended
handled  the history of keepHandledMs
dead     dead letters, except those that hold a key back
audit    what operators did

Workers prune dedupe, seen and workers by themselves, and handled and dead if they are told to (keepHandledMs, keepDeadMs).

Examples:
  $ twinbox prune dead --consumer billing --older-than 90d --dry-run
  $ twinbox prune audit --older-than 365d --yes`,
    )
    .action(async (kind: string, flags: ChangeFlags) => {
      const { pruneKind } = await import('./times.ts')
      exit(await pruneKind(kind as never, flags))
    })
}
