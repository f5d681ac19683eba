import { constants, existsSync } from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { Option, type Command } from 'commander'
import { codeOf } from '../base/errors.ts'
import { configNames } from '../terminal/flags.ts'
import { explain, say } from '../terminal/output.ts'

interface InitFlags {
  readonly typescript?: boolean
  readonly compose?: boolean
  readonly json?: boolean
}

/** Adds `init` to the program: what somebody needs who has nothing yet. */
export function addInit(program: Command): void {
  program
    .command('init')
    .description(
      'Write a configuration with a first handler, and a program that publishes to it, into this folder.',
    )
    .addOption(new Option('--typescript', 'in TypeScript (default: if there is a tsconfig.json)'))
    .addOption(new Option('--no-typescript', 'in JavaScript, even beside a tsconfig.json').hideHelp(false))
    .option('--compose', 'and a compose.yml with a Postgres for development')
    .option('--json', 'write for programs rather than for people')
    .addHelpText(
      'after',
      `
It asks nothing and overwrites nothing: a file that is there already is kept, and said. Then it says what to type next.

Examples:
  $ npm install twinbox pg && npx twinbox init
  $ npx twinbox init --typescript --compose
  $ npx twinbox init --json | jq .next`,
    )
    .action(async (flags: InitFlags) => {
      await writeBeginning(flags)
    })
}

const composeNames = ['compose.yaml', 'compose.yml', 'docker-compose.yaml', 'docker-compose.yml']

/**
 * Writes what is not there yet, and says what to type next. A file that is there under any of the names by which it would be found
 * is kept: another one beside it would be read instead, or never.
 */
async function writeBeginning(flags: InitFlags): Promise<void> {
  const isTyped = flags.typescript ?? existsSync('tsconfig.json')
  const publish = isTyped ? 'publish.mts' : 'publish.mjs'
  const wanted = [
    {
      name: isTyped ? 'twinbox.config.ts' : 'twinbox.config.mjs',
      names: configNames,
      from: 'twinbox.config.mjs',
    },
    { name: publish, names: ['publish.mjs', 'publish.mts'], from: 'publish.mjs' },
    ...(flags.compose === true ? [{ name: 'compose.yml', names: composeNames, from: 'compose.yml' }] : []),
  ]
  const written: string[] = []
  const kept: string[] = []
  for (const { name, names, from } of wanted) {
    const found = names.find((other) => existsSync(other)) ?? (await writeNew(name, from))
    if (found === null) written.push(name)
    else kept.push(found)
  }
  const next = nextCommands(isTyped, publish, flags.compose === true)
  if (flags.json === true) return void say(JSON.stringify({ written, kept, next }))
  for (const name of written) say(`Wrote ${name}`)
  for (const name of kept) say(`Kept ${name}, which is there already`)
  const width = Math.max(...next.map(({ command }) => command.length))
  explain(['', 'Next:', ...next.map(({ command, why }) => `  ${command.padEnd(width)}   ${why}`)].join('\n'))
}

/** Null, or the name of a file that somebody has written meanwhile. */
async function writeNew(name: string, from: string): Promise<string | null> {
  // What `init` writes, in JavaScript that is TypeScript as well.
  const examples = new URL('../../../examples/start/', import.meta.url)
  try {
    await copyFile(new URL(from, examples), name, constants.COPYFILE_EXCL)
    return null
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return name
    throw error
  }
}

function nextCommands(isTyped: boolean, publish: string, composes: boolean) {
  // Node reads TypeScript from 22.18 on; older ones need both, and an editor the types.
  const needed = isTyped ? ['pg', 'jiti', 'tsx', '@types/node', '@types/pg'] : ['pg']
  const missing = needed.filter((name) => !existsSync(`node_modules/${name}`))
  const database = composes
    ? { command: 'docker compose up --wait', why: 'starts Postgres; or set DATABASE_URL' }
    : { command: 'export DATABASE_URL=…', why: 'unless your Postgres is where twinbox.config says' }
  return [
    ...(missing.length === 0
      ? []
      : [{ command: `npm install ${missing.join(' ')}`, why: 'needed too, and not here yet' }]),
    database,
    { command: 'npx twinbox migrate', why: 'makes the tables, in a schema of their own' },
    { command: 'npx twinbox work', why: 'relays, receives and handles, until Ctrl-C' },
    {
      command: `${isTyped ? 'npx tsx' : 'node'} ${publish}`,
      why: 'in another terminal: publishes one message',
    },
  ]
}
