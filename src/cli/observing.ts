import type { Command } from 'commander'
import type { Flags } from '../terminal/flags.ts'
import { duration, whole } from '../terminal/parse.ts'
import type { DashboardFlags } from './dashboard.ts'
import type { ExplainFlags } from './explain.ts'
import type { RolesFlags } from './roles.ts'
import type { SqlFlags } from './sql.ts'
import type { TopicsFlags } from './topics.ts'

/** The commands with which an operator looks at what goes on. What they do is loaded when they run. */

const port = (text: string): number => whole(text, 0, 65_535)

/** What a command that runs workers has for those who watch it. */
export function watched(command: Command): Command {
  return command
    .option(
      '--metrics-port <port>',
      'serve /metrics, /health/live and /health/ready there; 0 picks one. TWINBOX_METRICS_TOKEN: the token that /metrics asks for',
      port,
    )
    .option('--metrics-host <address>', 'where to listen for them (default: 127.0.0.1)')
    .option(
      '--stuck-after <time>',
      'work that waits so long without any ending is stuck (default: 60s)',
      duration,
    )
}

/** Adds them to the program. `exit` is told with what to exit. */
export function addObserving(
  program: Command,
  common: (command: Command) => Command,
  exit: (code: 0 | 1) => void,
): void {
  common(program.command('status'))
    .description('Show what waits, who works and what they hold, and what has failed.')
    .option('-w, --watch', 'again every second, until Ctrl-C')
    .addHelpText(
      'after',
      `
Examples:
  $ twinbox status
  $ twinbox status --watch
  $ twinbox status --json | jq .outbox.depth`,
    )
    .action(async (flags: Flags) => {
      const { showStatus } = await import('./status.ts')
      await showStatus(flags)
    })

  common(program.command('dashboard'))
    .description('Serve the pages on which a browser shows all this, and on which an operator acts.')
    .option('--host <address>', 'where to listen (default: 127.0.0.1)')
    .option('--port <port>', 'and at which port; 0 picks one (default: 8460)', port)
    .option('--base-path <path>', 'the path under which a proxy serves it, such as /ops')
    .option('--read-only', 'let nobody act')
    .option('--payloads', 'let viewers see payloads, each when asked for')
    .option('--trace-url <url>', 'where a trace is found, with {traceId} in it')
    .addHelpText(
      'after',
      `
Prints a link that signs in one browser, once. With TWINBOX_DASHBOARD_USER and TWINBOX_DASHBOARD_PASSWORD in the environment it asks
for these instead, and only then it listens to others than this machine. The role twinbox_reader is enough to look.

Examples:
  $ twinbox dashboard
  $ twinbox dashboard --read-only --port 9000
  $ TWINBOX_DASHBOARD_USER=ops TWINBOX_DASHBOARD_PASSWORD=… twinbox dashboard --host 0.0.0.0`,
    )
    .action(async (flags: DashboardFlags) => {
      const { serveDashboard } = await import('./dashboard.ts')
      await serveDashboard(flags)
    })

  common(program.command('explain'))
    .description('Say why a message is where it is: one sentence of evidence for each place.')
    .argument('<id>', 'of the message')
    .option('--consumer <name>', 'only at this consumer')
    .option('--outbox', 'only in the outbox')
    .option('--all', 'look at every message that waits, which takes seconds with millions')
    .addHelpText(
      'after',
      `
What it waits behind, who holds it and whether they live, when it goes on; or when and by whom it was handled. Times are UTC.
What waits has no index by its id: without --all, the first of each lane are looked at, and those that came when this one did. If
that is not all, it says so. Exits with 1 if nothing is known of it. The role twinbox_reader is enough.

Examples:
  $ twinbox explain 0190c7e2-8a00-7000-8000-000000000001
  $ twinbox explain 0190c7e2-8a00-7000-8000-000000000001 --consumer billing
  $ twinbox explain 0190c7e2-8a00-7000-8000-000000000001 --json | jq '.places[].why'`,
    )
    .action(async (id: string, flags: ExplainFlags) => {
      const { explainOne } = await import('./explain.ts')
      exit(await explainOne(id, flags))
    })

  common(program.command('topics'))
    .description('Show the topics that twinbox.config.ts defines; needs no database.')
    .option('--asyncapi', 'print a document of AsyncAPI 3 instead, with the JSON Schema of each payload')
    .option('--title <text>', 'of that document (default: the name in package.json)')
    .addHelpText(
      'after',
      `
Examples:
  $ twinbox topics
  $ twinbox topics --asyncapi > asyncapi.json`,
    )
    .action(async (flags: TopicsFlags) => {
      const { showTopics } = await import('./topics.ts')
      await showTopics(flags)
    })

  common(program.command('sql'))
    .description('Show the SQL that Twinbox runs, for a DBA; needs no database.')
    .option('--list', 'the names of all statements and their parameters (the default)')
    .option('--print <name>', 'a statement, or all of a room such as inbox, with examples: runs in psql')
    .addHelpText(
      'after',
      `
Examples:
  $ twinbox sql
  $ twinbox sql --print claim
  $ (echo 'begin;'; twinbox sql --print inbox.claim; echo 'rollback;') | psql`,
    )
    .action(async (flags: SqlFlags) => {
      const { showSql } = await import('./sql.ts')
      await showSql(flags)
    })

  common(program.command('roles'))
    .description('Roles of least privilege: show who has them, or make them.')
    .option('--print', 'print the SQL instead; needs no database')
    .option('--apply', 'run it: make the roles, and give each what it needs and nothing else')
    .option(
      '--consumers <name...>',
      'with either: also a receiver and a claimer who see the rows of this consumer alone',
    )
    .addHelpText(
      'after',
      `
publisher, canceller, relay, receiver, claimer, operator and reader, each named after the schema: twinbox_relay.
Repeat it after a migration. Without a broker, a relay writes to the inbox and needs receiver as well. Roles are of
the whole server: a member in one database is one in all. A role of such a name that Twinbox has not made is refused.

Examples:
  $ twinbox roles --print
  $ twinbox roles --apply --consumers billing shipping
  $ TWINBOX_DATABASE_URL=$OWNER_URL twinbox roles --apply
  $ psql -c 'grant twinbox_publisher to app'`,
    )
    .action(async (flags: RolesFlags) => {
      const { showRoles } = await import('./roles.ts')
      exit(await showRoles(flags))
    })

  common(program.command('doctor'))
    .description('Look for what makes the work fail, slow or unsafe, and say what to do.')
    .addHelpText(
      'after',
      `
Looks at the tables against the migrations, grants, settings that void a guarantee, autovacuum and who holds it
up, the clock, connections (also those that twinbox.config.ts would want), work that nobody does, bloat. Changes
nothing. Sees most as the owner of the tables with pg_read_all_stats. Exits with 1 if anything is wrong.

Examples:
  $ twinbox doctor
  $ twinbox doctor --json | jq '.findings[] | select(.level == "wrong")'`,
    )
    .action(async (flags: Flags) => {
      const { runDoctor } = await import('./doctor.ts')
      exit(await runDoctor(flags))
    })
}
