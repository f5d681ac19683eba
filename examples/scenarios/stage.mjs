/** What the three scenarios share: the command line, a schema of their own, their processes, and leaving nothing behind. */
import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once, setMaxListeners } from 'node:events'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { migrate } from 'twinbox'
import { say } from './telling.mjs'

const file = /** @type {string} */ (process.argv[1])
const name = basename(file, '.mjs')
const { values, positionals } = readFlags()
// Further processes of a run are started as `node shop.mjs claimer <schema> <what else it has to know>`.
const [role, given, ...rest] = positionals

export const args = rest
export const url = values.url ?? process.env['TWINBOX_BROKER_URL']
export const schema = given ?? `${name}_${randomBytes(3).toString('hex')}`
export const database = new pg.Pool({
  connectionString: process.env['DATABASE_URL'],
  options: `-c search_path=${schema}`,
})

/** @typedef {import('node:child_process').ChildProcess} ChildProcess */
/** @type {ChildProcess[]} */
const children = []
const closing = new AbortController()
setMaxListeners(0, closing.signal)

/**
 * Runs one process of a scenario: the one of `roles` that the command line names, or the story, which starts these. What the story
 * returns is what is wrong.
 *
 * @param {{ count: number, least: number, of: string, broker: string, client: string, url: string }} about
 * @param {Record<string, () => Promise<void>>} roles
 * @param {(count: number) => Promise<string[]>} story
 * @param {(url: string) => Promise<void>} clearBroker removes what the run has made at the broker
 */
export async function raise(about, roles, story, clearBroker) {
  const count = Number(values.number ?? about.count)
  const isRight = Number.isInteger(count) && count >= about.least && (role === undefined || role in roles)
  if (values.help || !isRight || !process.env['DATABASE_URL']) {
    console.error(
      `DATABASE_URL=postgres://… node ${name}.mjs [-n ${about.count}] [--url ${about.url}]\n` +
        `  -n     how many ${about.of}, at least ${about.least}\n` +
        `  --url  of ${about.broker} (or TWINBOX_BROKER_URL), which needs "npm install ${about.client}"; otherwise the broker is Postgres`,
    )
    process.exit(values.help ? 0 : 2)
  }
  if (role !== undefined) {
    return roles[role]?.().catch((error) => {
      say(describe(error))
      process.exit(1)
    })
  }
  const interrupt = () => closing.abort(new Error('Interrupted.'))
  process.on('SIGINT', interrupt).on('SIGTERM', interrupt)
  let wrong = ['It did not begin.']
  try {
    const other = `For ${about.broker}: npm install ${about.client}, and --url ${about.url}`
    say(url ? `The broker is ${about.broker}.` : `The broker is Postgres itself. ${other}`)
    await migrate(database, { schema })
    wrong = await story(count)
  } catch (error) {
    wrong = [describe(closing.signal.reason ?? error)]
  } finally {
    closing.abort()
    await Promise.all(children.map(end))
    if (url) await clearBroker(url).catch((error) => say(`Left at ${about.broker}: ${describe(error)}`))
    await database.query(`drop schema if exists ${schema} cascade`).catch((error) => say(describe(error)))
    await database.end()
  }
  if (wrong.length > 0) say(['Something is wrong:', ...wrong.slice(0, 10)].join('\n  - '))
  process.exit(wrong.length > 0 ? 1 : 0)
}

/** Starts a process of this scenario; resolves when it works. @param {string} as @param {unknown[]} knowing */
export async function hire(as, ...knowing) {
  const env = { ...process.env, ...(url && { TWINBOX_BROKER_URL: url }) }
  const child = fork(file, [as, schema, ...knowing.map(String)], { env })
  children.push(child)
  child.once('exit', (code, signal) => {
    // A kill is what scenarios are about. Nothing else may end a process.
    if (signal !== 'SIGKILL') closing.abort(new Error(`The ${as} ended by itself (${signal ?? code}).`))
  })
  const [port] = await once(child, 'message', { signal: closing.signal })
  return Object.assign(child, { port })
}

/** Lets these workers work until the parent ends this process, or ends itself. @param {import('twinbox').Worker[]} workers */
export async function work(workers, port = 0) {
  for (const worker of workers) await worker.start()
  const stop = () => {
    Promise.all(workers.map((worker) => worker.stop())).then(
      () => process.exit(),
      () => process.exit(1),
    )
  }
  // Ctrl-C reaches all processes of a terminal: let the parent decide.
  process.on('SIGINT', () => {})
  process.once('SIGTERM', stop).once('disconnect', stop)
  process.send?.(port)
}

/** Resolves when it is so. Rejects when it is not after a minute, or when the run ends. @param {() => unknown} isSo */
export async function until(isSo) {
  const lateAt = performance.now() + 60_000
  for (; !(await isSo()); await pause(50))
    if (performance.now() > lateAt) throw new Error('For a minute, it has not come to what it should.')
}

/** @param {number} ms */
export const pause = (ms) => sleep(ms, undefined, { signal: closing.signal })

/** The answer of a statement that gives one number, or one text. @param {string} statement */
export async function ask(statement) {
  const { rows } = await database.query({ text: `select to_json((${statement})) as answer` })
  return rows[0].answer
}

/** @param {ChildProcess} child */
async function end(child) {
  if (child.exitCode !== null || child.signalCode !== null) return
  const late = setTimeout(() => child.kill('SIGKILL'), 10_000)
  child.kill('SIGTERM')
  await once(child, 'exit')
  clearTimeout(late)
}

/** @param {unknown} error */
function describe(error) {
  return error instanceof Error ? error.message || String(error) : String(error)
}

function readFlags() {
  const options = /** @type {const} */ ({
    number: { type: 'string', short: 'n' },
    url: { type: 'string' },
    help: { type: 'boolean', short: 'h' },
  })
  try {
    return parseArgs({ allowPositionals: true, options })
  } catch (error) {
    console.error(describe(error))
    return process.exit(2)
  }
}
