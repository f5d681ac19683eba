import { Option, type Command } from 'commander'
import type { CommonFlags } from '../terminal/flags.ts'
import type { ChangeFlags, FilterFlags } from './letters.ts'
import type { MessageFlags } from './messages.ts'
import { duration, whole } from '../terminal/parse.ts'
import { signed } from './signature.ts'

/** The commands with which an operator looks after messages. What they do is loaded when they run. */

const listLimit = (text: string): number => whole(text, 1, 1000)
const most = (text: string): number => whole(text, 1, 1_000_000_000)

function filtered(command: Command): Command {
  return command
    .option('--consumer <name>', 'only those of this consumer')
    .option('--outbox', 'only those of the outbox')
    .option('--key <key>', 'only those of this key')
    .option('--error <text>', 'only those whose reason contains this, whatever the case')
    .option('--older-than <time>', 'only those that are older, such as 2h', duration)
    .option('--newer-than <time>', 'only those that are newer, such as 30m', duration)
}

function paged(command: Command): Command {
  return command
    .option('--limit <number>', 'how many, 1 to 1000', listLimit, 100)
    .option('--after <place>', 'go on behind an earlier page, as that one said')
}

function changing(command: Command): Command {
  return signed(command)
    .option('--all', 'all of them')
    .option('--limit <number>', 'at most so many', most)
    .option('--rate <number>', 'at most so many a second', most)
    .option('--dry-run', 'only say how many; change nothing')
}

/** Adds them to the program. `exit` is told with what to exit. */
export function addOperating(
  program: Command,
  common: (command: Command) => Command,
  exit: (code: 0 | 1) => void,
): void {
  const dead = program
    .command('dead')
    .description('Dead letters: messages that are not tried again until redriven.')
    .addHelpText(
      'after',
      `
Examples:
  $ twinbox dead list --consumer billing
  $ twinbox dead show 17 --payload
  $ twinbox dead redrive 17 18 --reason 'fixed in 1.4'
  $ twinbox dead redrive --consumer billing --class TimeoutError --dry-run`,
    )
  const letters = (command: Command): Command =>
    filtered(common(command))
      .option('--topic <name>', 'only those of this topic')
      .option('--class <name>', 'only those whose error is of this class')

  paged(letters(dead.command('list')))
    .description('List them, the latest first.')
    .action(async (flags: FilterFlags) => {
      const { listLetters } = await import('./letters.ts')
      await listLetters(flags)
    })
  common(dead.command('show'))
    .description('Show all that is known of one: its attempts, and what operators did with it.')
    .argument('<number or id>', 'as "twinbox dead list" shows it, or the id of the message')
    .option('--payload', 'its payload too')
    .action(async (name: string, flags: CommonFlags & { payload?: boolean }) => {
      const { showLetter } = await import('./letters.ts')
      exit(await showLetter(name, flags))
    })
  changing(letters(dead.command('redrive')))
    .description('Put them back, in order, as messages that have not been attempted yet.')
    .argument('[number or id...]', 'those; none for a filter')
    .addHelpText(
      'after',
      `
One with a key goes before all messages of its key that nobody has in flight, and the key goes on. The workers need
not be stopped. Exits with 1 if one that was named is not there; the others are redriven all the same.`,
    )
    .action(async (names: readonly string[], flags: ChangeFlags) => {
      const { changeLetters } = await import('./letters.ts')
      exit(await changeLetters('redrive', names, flags))
    })
  changing(letters(dead.command('skip')))
    .description('Delete them for good; keys that are held back behind them go on.')
    .argument('[number or id...]', 'those; none for a filter')
    .option('-y, --yes', 'do not ask')
    .action(async (names: readonly string[], flags: ChangeFlags) => {
      const { changeLetters } = await import('./letters.ts')
      exit(await changeLetters('skip', names, flags))
    })
  letters(dead.command('export'))
    .description('Write them whole, payloads included, one JSON object a line.')
    .option('-o, --out <file>', 'a file that does not exist yet (default: standard output)')
    .action(async (flags: FilterFlags & { out?: string }) => {
      const { exportLetters } = await import('./letters.ts')
      await exportLetters(flags)
    })

  const parked = program
    .command('parked')
    .description('Keys that are held back behind a message that failed.')
    .addHelpText(
      'after',
      `
Examples:
  $ twinbox parked list
  $ twinbox parked redrive order-17 --consumer billing
  $ twinbox parked skip order-17 --consumer billing --reason 'cancelled by hand'`,
    )
  paged(filtered(common(parked.command('list'))))
    .description('List them, and how many messages wait behind each.')
    .action(async (flags: FilterFlags) => {
      const { listKeys } = await import('./keys.ts')
      await listKeys(flags)
    })
  for (const [action, does] of [
    ['redrive', 'Let keys go on, with the message that they are held back behind.'],
    ['skip', 'Let keys go on without that message, which stays or becomes a dead letter.'],
  ] as const) {
    changing(filtered(common(parked.command(action))))
      .description(does)
      .argument('[key]', 'this one; none for a filter, which leaves keys alone that will go on by themselves')
      .action(async (key: string | undefined, flags: ChangeFlags) => {
        const { changeKeys } = await import('./keys.ts')
        exit(await changeKeys(action, key, flags))
      })
  }
  addMessages(program, common, exit)
  addAudit(program, common)
}

type Adding = Parameters<typeof addOperating>

function addMessages(...[program, common, exit]: Adding): void {
  const messages = program
    .command('messages')
    .description('Where messages are, and what happened to them.')
    .addHelpText(
      'after',
      `
Examples:
  $ twinbox messages list --key order-17
  $ twinbox messages list --state deferred parked --consumer billing
  $ twinbox messages show 0190c7e2-8a00-7000-8000-000000000001 --payload`,
    )
  common(messages.command('list'))
    .description('List them by where they are: at most so many of each, out of the first 100,000.')
    .addOption(
      new Option('--state <state...>', 'only those there').choices([
        ...['outbox', 'inbox', 'deferred', 'parked', 'unhandled', 'dead', 'handled'],
      ]),
    )
    .option('--consumer <name>', 'only those of this consumer')
    .option('--outbox', 'only those of the outbox')
    .option('--topic <name>', 'only those of this topic')
    .option('--key <key>', 'only those of this key')
    .option('--limit <number>', 'how many of each state, 1 to 1000', listLimit, 100)
    .option('--payload', 'their payloads too')
    .action(async (flags: MessageFlags) => {
      const { listMessages } = await import('./messages.ts')
      await listMessages(flags)
    })
  common(messages.command('show'))
    .description('Show where a message is, in whose inboxes, what failed, and what operators did.')
    .argument('<id>', 'of the message')
    .option('--payload', 'its payload too')
    .action(async (id: string, flags: CommonFlags & { payload?: boolean }) => {
      const { showOne } = await import('./messages.ts')
      exit(await showOne(id, flags))
    })
}

function addAudit(...[program, common]: [Adding[0], Adding[1]]): void {
  common(program.command('audit'))
    .description('What operators did, the latest first: who they said they were, and who was logged in.')
    .option('--consumer <name>', 'only what was done to this consumer')
    .option('--outbox', 'only what was done to the outbox, or to all')
    .option('--key <key>', 'only what was done to this key')
    .option('--limit <number>', 'how many, 1 to 1000', listLimit, 100)
    .addHelpText(
      'after',
      `
Redrives, skips, prunes and erasures; workers that were evicted, schedules that were set, removed, paused or resumed,
subscriptions that were ended. No role of ours can change or delete a row: "twinbox prune audit" leaves word of itself.

Examples:
  $ twinbox audit --consumer billing
  $ twinbox audit --json | jq '.entries[] | select(.action == "erase")'`,
    )
    .action(async (flags: FilterFlags) => {
      const { showAudit } = await import('./audit.ts')
      await showAudit(flags)
    })
}
