#!/usr/bin/env node
import { CommanderError, Option, type Command } from 'commander'
import { addTimes } from './clockwork.ts'
import { addErasing } from './erasing.ts'
import { addInit } from './init.ts'
import { Command as Program } from '../terminal/command.ts'
import { exitCode, report } from '../terminal/failure.ts'
import { adapters, brokerNames } from '../brokers/registry.ts'
import { insecureHelp, urlHelp } from '../terminal/brokers.ts'
import { zookeeperHelp } from '../terminal/coordination.ts'
import type { Flags } from '../terminal/flags.ts'
import { addObserving, watched } from './observing.ts'
import { addOperating } from './operating.ts'
import type { MigrateFlags } from './migration.ts'
import { duration, whole } from '../terminal/parse.ts'
import { addProving } from './proving.ts'
import type { RosterFlags } from './roster.ts'
import { signed, type SignatureFlags } from './signature.ts'
import type { WorkerCommand } from './workers.ts'
import { remarkLines } from '../terminal/output.ts'

// What a command needs is loaded when it runs: help and complaints come at once.

let verbose = false
let code: 0 | 1 | 2 = 0

/** The options that all commands have. Their names in help are those of docs/operating.md. */
function common(command: Command): Command {
  return command
    .option('-c, --config <file>', 'configuration file (default: twinbox.config.{js,mjs,ts} here)')
    .option(
      '-d, --database <url>',
      'TWINBOX_DATABASE_URL, or this: where the tables are (last, after the configuration, DATABASE_URL)',
    )
    .option('-s, --schema <name>', "the tables' schema (or TWINBOX_SCHEMA; default: twinbox)")
    .option('--json', 'write for programs rather than for people')
    .option('-v, --verbose', 'tell more: every message, and errors with their stacks')
    .hook('preAction', (_, action) => void (verbose = action.opts<Flags>().verbose ?? false))
}

function brokered(command: Command): Command {
  return command
    .addOption(new Option('-b, --broker <name>', 'or TWINBOX_BROKER').choices(brokerNames))
    .option('-u, --url <url>', urlHelp)
    .option('--insecure', insecureHelp)
}

const workerId = (text: string, ids: number[] = []): number[] => [...ids, whole(text, 1, 2 ** 31 - 1)]

const program = new Program('twinbox')
  .description('Transactional outbox and inbox for Postgres.')
  .addHelpText(
    'after',
    `
Flags beat TWINBOX_… in the environment, that beats the configuration file, and DATABASE_URL comes last. Each command
says on standard error which database it works on, unless --json is given. A URL with a password belongs into the environment:
everybody on the machine can read the flags of a process.

Exit codes: 0 done, 1 failed, 2 used wrongly.

Examples:
  $ twinbox demo                          see it work, in a schema of its own
  $ export TWINBOX_DATABASE_URL=…         such as postgres://app:…@127.0.0.1/app
  $ twinbox migrate                       create or update the tables
  $ twinbox work                          run all workers of twinbox.config.ts
  $ twinbox status                        what waits, who works, what failed
  $ twinbox workers --watch               who works, and what each one holds`,
  )

common(program.command('migrate'))
  .description('Create the tables, or bring them up to date. Safe to repeat, and to start twice at once.')
  .option('--print', 'print the SQL instead, for another migration tool; needs no database')
  .option('--wait <time>', 'how long to try while others hold locks, such as 5m (default: 1m)', duration)
  .addHelpText(
    'after',
    `
Changing a table takes a lock on it for a moment. While the lock is waited for, publishers and workers wait behind
it: so a try lasts less than a second, then they go ahead, and it is tried again. Who is in the way is told on
standard error; with --json as {"schema", "waiting": {"tries", "waitedMs", "retryInMs", "blockers"}}, a line a try.
All migrations are one transaction: Ctrl-C, or the end of --wait, leaves everything as it was and exits with 1.

Examples:
  $ export TWINBOX_DATABASE_URL=…         such as postgres://app:…@127.0.0.1/app
  $ twinbox migrate
  $ twinbox migrate --schema messaging
  $ twinbox migrate --print | psql --single-transaction -v ON_ERROR_STOP=1`,
  )
  .action(async (flags: MigrateFlags) => {
    const { runMigrate } = await import('./migration.ts')
    code = await runMigrate(flags)
  })

const work: Record<WorkerCommand, { does: string; examples: string }> = {
  relay: {
    does: 'Send what was published to the broker.',
    examples: `
  $ export TWINBOX_BROKER_URL=…         such as amqps://app:…@rabbitmq.internal
  $ twinbox relay --broker rabbitmq
  $ twinbox relay --broker postgres     no broker: straight into the inboxes`,
  },
  receive: {
    does: 'Write what the broker delivers into the inbox of a consumer.',
    examples: `
  $ twinbox receive --consumer billing  topics as in twinbox.config.ts
  $ twinbox receive --consumer billing --topic 'order.*' --topic invoice.sent \\
      --broker kafka --url localhost:9092`,
  },
  claim: {
    does: 'Handle the messages of a consumer with the handlers of twinbox.config.ts.',
    examples: `
  $ twinbox claim --consumer billing
  $ twinbox claim                       all consumers of the configuration`,
  },
  work: {
    does: 'Relay, receive and claim for all consumers of twinbox.config.ts, in one process.',
    examples: `
  $ twinbox work
  $ twinbox work --json --verbose | jq .`,
  },
}

for (const name of ['relay', 'receive', 'claim', 'work'] as const) {
  const command = common(program.command(name)).description(work[name].does)
  if (name !== 'claim') brokered(command)
  else command.option('--insecure', insecureHelp)
  command.option('--zookeeper <servers>', zookeeperHelp)
  if (name !== 'relay') command.option('--consumer <name>', 'only this one of the configuration')
  watched(command)
  if (name === 'receive') command.option('--topic <pattern...>', 'topic names or patterns such as order.*')
  command
    .addHelpText(
      'after',
      `\nRuns until SIGINT or SIGTERM: the first stops in good order, the second at once.\n\nExamples:${work[name].examples}`,
    )
    .action(async (flags: Flags) => {
      const { runWorkers } = await import('./workers.ts')
      code = await runWorkers(name, flags)
    })
}

const workers = common(program.command('workers'))
  .description('Show who works, what each worker holds, and who has ended in the last ten minutes.')
  .option('-w, --watch', 'again every second, until Ctrl-C')
  .option('--consumer <name>', 'only those of this consumer')
  .addOption(new Option('--kind <kind>', 'only these').choices(['relay', 'receiver', 'claimer']))
  .option('--ended', 'list those who have ended too, rather than count them')
  // What stands behind "evict" belongs to it, even if "workers" has an option of that name.
  .enablePositionalOptions()
  .addHelpText(
    'after',
    `
silent         no heartbeat for 5 s
gone           its session's lock is free: others will soon take its work
died           others found it dead, since its process was gone (lock), since it was silent (heartbeat), or since its session of ZooKeeper had ended (session)
evicted        by "twinbox workers evict"
stopped        by itself, in good order
lock: no       a pooler is between: its death is found by its heartbeat only
lock: session  the same, and by its session of ZooKeeper

Where the terminal is too narrow, columns are left out, and it says which.

Examples:
  $ twinbox workers
  $ twinbox workers --watch --consumer billing
  $ twinbox workers --ended
  $ twinbox workers --json | jq '.workers[] | select(.state != "alive")'
  $ twinbox workers evict 42`,
  )
  .action(async (flags: RosterFlags) => {
    const { showWorkers } = await import('./roster.ts')
    await showWorkers(flags)
  })

signed(common(workers.command('evict')))
  .description("Take a worker's work away, for others to go on with.")
  .argument('<id...>', 'as "twinbox workers" shows them', workerId)
  .addHelpText(
    'after',
    `
The others take over within a second, and what it still writes for that work changes nothing. If its process
lives, it notices at its next heartbeat, drops what it has in flight and comes back under a new id: to be rid of
it, stop the process. Exits with 1 if an id is unknown or had already ended; the others are evicted all the same.

Examples:
  $ twinbox workers evict 42 --reason 'hangs since 2:10'
  $ twinbox workers evict 42 43 --json`,
  )
  .action(async (ids: readonly number[], flags: Flags & SignatureFlags) => {
    const { evict } = await import('./roster.ts')
    code = await evict(ids, { ...workers.opts<Flags>(), ...flags })
  })

signed(brokered(common(program.command('unsubscribe'))))
  .description('End what a consumer is subscribed to: its receivers name these topics no more.')
  .argument('<topic...>', 'as receivers have named them, such as invoice.#')
  .requiredOption('--consumer <name>', 'who shall not receive them any more')
  .addHelpText(
    'after',
    `
At once, where a receiver would do it by itself after unsubscribeAfterMs. --broker is needed for ${adapters
      .filter(({ keepsSubscriptions }) => keepsSubscriptions)
      .map(({ name }) => name)
      .join(', ')}, which keeps what
its consumers are subscribed to. What was received before still waits. Exits with 1 if the consumer was not subscribed to one of
them, and changes nothing while a living receiver names it.

Examples:
  $ twinbox unsubscribe --consumer billing 'invoice.#'
  $ export TWINBOX_BROKER_URL=…         such as amqps://app:…@rabbitmq.internal
  $ twinbox unsubscribe invoice.made --consumer billing --broker rabbitmq`,
  )
  .action(async (topics: readonly string[], flags: Flags & SignatureFlags & { consumer: string }) => {
    const { endSubscriptions } = await import('./unsubscribe.ts')
    code = await endSubscriptions(topics, flags)
  })

const exit = (status: 0 | 1): void => void (code = status)
addOperating(program, common, exit)
addErasing(program, common, exit)
addTimes(program, common, exit)
addObserving(program, common, exit)
addInit(program)
addProving(program, (told) => void (verbose = told), exit)

// Whoever read our output has left, as with `| head`.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1))

program.complete()

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) code = error.exitCode === 0 ? 0 : 2
  else {
    code = exitCode(error)
    remarkLines(report(error, verbose))
  }
}
// Pools of a configuration file, or of a handler, would keep the process alive.
process.stdout.write('', () => process.exit(code))
