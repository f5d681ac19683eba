import { execFile } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { isMissing } from '../support/require.ts'
import { postgres } from '../support/servers/postgres.ts'
import { compiled, shared } from '../support/shared.ts'

/** Code that is made of data, started or fetched: there is none in what runs in a user's process. */

const root = resolve(import.meta.dirname, '../..')
const run = promisify(execFile)
const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.ts'),
)

test('from publish to handler it runs where no code may be made of texts', async () => {
  await compiled('build')
  const build = join(root, '.build')
  const found = await shared(postgres)
  if (isMissing(found)) throw new Error(found.missing)
  const flags = ['--disallow-code-generation-from-strings', '--input-type=module', '--eval']
  const program = (work: string): Promise<{ stdout: string }> =>
    run(process.execPath, [...flags, work], { cwd: root, env: { ...process.env, URL_OF_SERVER: found.url } })

  // The flag does what it says.
  await expect(program('new Function("return 1")()')).rejects.toThrow('EvalError')
  const { stdout } = await program(`
    import pg from 'pg'
    import { createClaimer, createOutbox, createReceiver, createRelay, createSchedules, defineConfig, diagnose, migrate, prune, readStatus, withTransaction } from '${build}/src/index.js'
    import { postgres } from '${build}/src/brokers/postgres/postgres.js'
    import '${build}/src/brokers/rabbitmq/rabbitmq.js'
    import '${build}/src/brokers/kafka/kafka.js'
    import { prometheus } from '${build}/src/observe/prometheus.js'
    import '${build}/src/observe/opentelemetry.js'
    const admin = new pg.Client({ connectionString: process.env.URL_OF_SERVER })
    await admin.connect()
    const name = 'twinbox_test_' + process.pid + '_' + Date.now()
    await admin.query('create database ' + name)
    const database = Object.assign(new URL(process.env.URL_OF_SERVER), { pathname: '/' + name }).toString()
    try {
      await migrate(database)
      const broker = postgres({ database })
      const handled = Promise.withResolvers?.() ?? (() => { const r = {}; r.promise = new Promise((a) => (r.resolve = a)); return r })()
      const receiver = createReceiver({ database, broker, consumer: 'c', topics: ['order.#'] })
      await receiver.start()
      const pool = new pg.Pool({ connectionString: database })
      const outbox = createOutbox()
      await withTransaction(pool, (client) => outbox.publish(client, { topic: 'order.placed', key: 'k', payload: { n: 1 }, headers: { a: 'b' }, dedupeKey: 'd' }))
      const relay = createRelay({ database, broker })
      const claimer = createClaimer({ database, consumer: 'c' }, { 'order.placed': async (message, { trx }) => handled.resolve(message.payload.n) })
      await Promise.all([relay.start(), claimer.start()])
      await createSchedules({ database }).set({ name: 's', cron: '0 6 * * *', topic: 'report.due', payload: {} })
      defineConfig({ database, broker: () => broker, consumers: {} })
      const n = await handled.promise
      const findings = await diagnose(database)
      await readStatus(database)
      await prune(database, 'dedupe')
      const metrics = prometheus({ database })
      const text = await metrics.text()
      await metrics.close()
      for (const worker of [relay, claimer, receiver]) await worker.stop()
      await broker.close()
      await pool.end()
      console.log(n, findings.length > 3, text.includes('twinbox_depth'))
    } finally {
      await admin.query('drop database ' + name + ' with (force)')
      await admin.end()
    }
  `)
  expect(stdout.trim()).toBe('1 true true')
}, 120_000)

test('nothing of src evaluates, starts or fetches anything', () => {
  const faults = sources.flatMap((file) => {
    const text = readFileSync(join(root, 'src', file), 'utf8')
    return [
      /\beval\(/,
      /\bnew Function\b/,
      /^import (?!type\b)[^;]*? from 'node:(vm|child_process|worker_threads|cluster|https?2?|inspector)'/m,
      /(?<![\w.#])fetch\(/,
      /\bimport\((?!['"]|\s*\/)/,
    ]
      .filter((pattern) => pattern.test(text))
      .map((pattern) => `${file}: ${pattern}`)
  })
  // The endpoint and the dashboard listen, and ask nobody. A configuration is imported, from where the user has it.
  expect(new Set(faults.map((fault) => fault.split(':')[0]))).toEqual(
    new Set(['cli/dashboard.ts', 'cli/endpoint.ts', 'cli/settings.ts']),
  )
  for (const file of ['dashboard', 'endpoint'])
    expect(readFileSync(join(root, `src/cli/${file}.ts`), 'utf8')).not.toMatch(/\b(request|get)\(/)
})
