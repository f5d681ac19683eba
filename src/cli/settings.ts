import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type * as jiti from 'jiti'
import type { Broker } from '../brokers/broker.ts'
import { adapters, brokerNames } from '../brokers/registry.ts'
import type { Config, AnyConsumerConfig } from '../config.ts'
import type { DatabaseInput } from '../database/database.ts'
import { placeOf } from '../database/place.ts'
import { codeOf } from '../base/errors.ts'
import type { Coordination } from '../membership/coordination.ts'
import * as twinbox from '../index.ts'
import { checkSchema, refuseUnknown } from '../base/options.ts'
import { openBroker, readInsecure } from '../terminal/brokers.ts'
import { openCoordination } from '../terminal/coordination.ts'
import { UsageError } from '../terminal/failure.ts'
import { configNames, type CommonFlags } from '../terminal/flags.ts'
import { remark } from '../terminal/output.ts'

/** Flags, environment and configuration file as one. What a command does not ask for may be missing. */
export interface Settings {
  readonly schema: string
  readonly config: Config
  /** Tells people which one it is, once. @throws UsageError, OptionError */
  readonly database: () => DatabaseInput
  /** @throws UsageError, OptionError */
  readonly openBroker: () => Promise<Broker>
  /** @throws UsageError, OptionError */
  readonly coordination: () => Coordination | undefined
}

/** Tells on standard error, which programs that read the output do not. */
export const tellPeople = (flags: CommonFlags) => (text: string) => {
  if (flags.json !== true) remark(text)
}

/**
 * Flags beat the environment, and what the environment says to Twinbox beats the configuration file. DATABASE_URL says it
 * to everybody, and may mean another database of the same machine: it is only asked where nobody else has named one.
 */
export async function readSettings(flags: CommonFlags, tell = tellPeople(flags)): Promise<Settings> {
  const given = (name: string): string | undefined => process.env[name] || undefined
  const { config, path } = await loadConfig(flags.config ?? given('TWINBOX_CONFIG'), tellPeople(flags))
  const schema = checkSchema(flags.schema ?? given('TWINBOX_SCHEMA') ?? config.schema ?? 'twinbox')
  const sources: [by: string, input: DatabaseInput | undefined][] = [
    ['--database', flags.database],
    ['TWINBOX_DATABASE_URL', given('TWINBOX_DATABASE_URL')],
    [path ?? '', config.database],
    ['DATABASE_URL', given('DATABASE_URL')],
  ]
  let told = false
  const database = (): DatabaseInput => {
    for (const [by, input] of sources) {
      if (input === undefined) continue
      if (!told) tell(`Database ${placeOf(input)}, schema "${schema}" (by ${by}).`)
      told = true
      return input
    }
    throw new UsageError(
      'No database: set TWINBOX_DATABASE_URL, give --database URL, name it in twinbox.config.{js,mjs,ts}, or set DATABASE_URL.',
    )
  }
  return {
    schema,
    config,
    database,
    coordination: () => openCoordination(flags) ?? config.coordination,
    openBroker: async () => {
      const name = flags.broker ?? given('TWINBOX_BROKER')
      const url = flags.url ?? given('TWINBOX_BROKER_URL')
      if (name !== undefined) {
        const insecure = readInsecure(flags.insecure)
        return openBroker(name, { url, insecure, database, schema })
      }
      if (url !== undefined)
        throw new UsageError(
          'TWINBOX_BROKER_URL or --url needs TWINBOX_BROKER or --broker, to say what is there.',
        )
      if (config.broker !== undefined)
        return typeof config.broker === 'function' ? config.broker() : config.broker
      throw new UsageError(
        `No broker: give --broker ${brokerNames.join('|')}, set TWINBOX_BROKER, or name it in twinbox.config.{js,mjs,ts}.`,
      )
    },
  }
}

/** The one that was asked for, or all. @throws UsageError */
export function chooseConsumers(config: Config, name: string | undefined): [string, AnyConsumerConfig][] {
  const consumers = Object.entries(config.consumers ?? {})
  if (name === undefined) return consumers
  const chosen = consumers.filter(([consumer]) => consumer === name)
  if (chosen.length > 0 || consumers.length === 0) return chosen
  throw new UsageError(
    `The configuration has no consumer "${name}". It has: ${consumers.map(([known]) => known).join(', ')}.`,
  )
}

/**
 * The configuration, and its file if there is one. The file is a program: whoever can write into the folder where a
 * command is started has it run with the rights of the one who starts it. So it is named before it runs.
 */
async function loadConfig(
  named: string | undefined,
  tell: (text: string) => void,
): Promise<{ config: Config; path: string | null }> {
  const path =
    named === undefined
      ? configNames.map((name) => join(process.cwd(), name)).find((candidate) => existsSync(candidate))
      : resolve(named)
  if (path === undefined) return { config: {}, path: null }
  if (!existsSync(path)) throw new UsageError(`There is no configuration file ${path}.`)
  if (named === undefined) tell(`Runs ${path}, the configuration of this folder (--config names another).`)
  const config = (await load(path)) as Config
  if (typeof config !== 'object' || config === null) {
    throw new UsageError(
      `${path} must export its configuration as default: export default defineConfig({ … })`,
    )
  }
  refuseUnknown(path, config, [
    'database',
    'schema',
    'preparedStatements',
    'coordination',
    'telemetry',
    'redactError',
    'broker',
    'topics',
    'consumers',
    'relay',
  ])
  for (const [name, consumer] of Object.entries(config.consumers ?? {})) {
    if (typeof consumer !== 'object' || consumer === null) {
      throw new UsageError(`${path}: the consumer "${name}" must be an object with topics and handlers.`)
    }
  }
  return { config, path }
}

async function load(path: string): Promise<unknown> {
  const byNode = async (): Promise<unknown> =>
    ((await import(pathToFileURL(path).href)) as { default?: unknown }).default
  if (!path.endsWith('ts')) return byNode()
  const createJiti = await findJiti()
  if (createJiti === null) {
    return byNode().catch((error: unknown) => {
      const reason = unreadable[codeOf(error)]?.(error as Error)
      if (reason === undefined) throw error
      throw new UsageError(
        `${path}: Node ${process.versions.node} ${reason}. Run "npm install jiti", or write it in JavaScript, as twinbox.config.mjs.`,
        { cause: error },
      )
    })
  }
  // What the configuration imports from twinbox has to be what runs here, or a DeadLetterError of a handler would be
  // of a class that nobody here knows.
  const brokers = adapters.map(async ({ name, load: open }) => [`twinbox/${name}`, await open()] as const)
  const virtualModules = {
    twinbox,
    'twinbox/zookeeper': await import('../membership/zookeeper/zookeeper.ts'),
    ...Object.fromEntries(await Promise.all(brokers)),
  }
  return createJiti(import.meta.url, { fsCache: false, virtualModules }).import(path, { default: true })
}

/** Reads all of TypeScript, under any Node. An old one, which another package has brought, is none. */
async function findJiti(): Promise<typeof jiti.createJiti | null> {
  try {
    const { createJiti }: Partial<typeof jiti> = await import('jiti')
    return createJiti ?? null
  } catch (error) {
    if (codeOf(error) !== 'ERR_MODULE_NOT_FOUND') throw error
    return null
  }
}

/** Why Node does not read a file of TypeScript, by the code of its error. Other faults of it are the user's. */
const unreadable: Readonly<Record<string, (error: Error) => string | undefined>> = {
  ERR_UNKNOWN_FILE_EXTENSION: () => 'does not read TypeScript, 22.18 and later do',
  ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX: () =>
    'cannot read TypeScript that is more than JavaScript with types, such as an enum',
  SyntaxError: ({ message }) =>
    /^(Unexpected token 'export'|Cannot use import statement)/.test(message)
      ? 'takes it for CommonJS, since the package.json beside it does'
      : undefined,
}
