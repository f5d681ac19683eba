import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { roleNames } from '../../src/database/sql/grants.ts'
import type { Finding, RoleStatus } from '../../src/index.ts'
import { Command, type Output } from '../support/command.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let folder: string
let database: TestDatabase
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'twinbox-observe-'))
  database = await createTestDatabase()
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true, force: true })
})

const start = (...args: string[]): Command =>
  new Command(folder, args, { TWINBOX_DATABASE_URL: database.url })
const twinbox = (...args: string[]): Promise<Output> => start(...args).done

test.each(['status', 'doctor', 'roles'])('%s has help with examples', async (command) => {
  const { code, stdout } = await twinbox(command, '--help')
  expect(code).toBe(0)
  expect(stdout).toContain(`$ twinbox ${command}`)
})

test.each([
  [['relay', '-b', 'postgres', '--metrics-port', '70000'], /whole number from 0 to 65535/],
  [['relay', '-b', 'postgres', '--stuck-after', '5'], /whole number with its unit/],
  [['relay', '-b', 'postgres', '--metrics-port', '0', '--stuck-after', '1ms'], /stuckAfterMs is 1/],
  [
    ['relay', '-b', 'postgres', '--metrics-port', '0', '--metrics-host', '192.0.2.1'],
    /Cannot listen on 192\.0\.2\.1:0/,
  ],
  [['roles', '--print', '--apply'], /not both/],
])('%j is used wrongly', async (args, says) => {
  const { code, stderr } = await twinbox(...args)
  expect(stderr).toMatch(says)
  expect(code).toBe(2)
})

test('a worker serves metrics and health, as long as it runs', async () => {
  const config = join(folder, 'observed.config.mjs')
  await writeFile(
    config,
    `export default { consumers: { billing: { topics: ['#'], handlers: { '#': () => {} } } } }`,
  )
  const work = start('work', '--config', config, '--broker', 'postgres', '--metrics-port', '0')
  await work.shows(/\/health\/live/)
  const [url] = /http:\/\/127\.0\.0\.1:\d+/.exec(work.stderr)!
  const get = async (path: string): Promise<Response> => fetch(url + path)
  while ((await get('/health/ready')).status !== 200) await new Promise((resolve) => setTimeout(resolve, 50))
  expect((await get('/health/live')).status).toBe(200)
  expect(await (await get('/metrics')).text()).toContain(
    'twinbox_workers{kind="claimer",consumer="billing",state="alive"} 1',
  )
  work.process.kill('SIGTERM')
  expect((await work.done).code).toBe(0)
  await expect(get('/health/live')).rejects.toThrow('fetch failed')
})

test('status --watch goes on until it is told to stop', async () => {
  const status = start('status', '--watch', '--json')
  await status.shows(/\n.*\n/)
  status.process.kill('SIGINT')
  const { code, stdout } = await status.done
  expect(code).toBe(0)
  const [first, second] = stdout
    .split('\n')
    .map((line) => (line === '' ? null : (JSON.parse(line) as { at: string })))
  expect(first!.at < second!.at).toBe(true)
})

describe('doctor', () => {
  const ofOurs = (findings: readonly Finding[]): Finding[] =>
    findings.filter(
      ({ check, level }) => level === 'wrong' && ['schema', 'grants', 'work', 'storage'].includes(check),
    )

  test('tells programs what it found, and fails if anything is wrong', async () => {
    const { stdout } = await twinbox('doctor', '--json')
    const { findings } = JSON.parse(stdout) as { findings: Finding[] }
    expect(ofOurs(findings)).toEqual([])
    await database.query('drop index twinbox.seen_at')
    const broken = await twinbox('doctor', '--json')
    await database.query(
      'create index seen_at on twinbox.seen using brin (seen_at) with (autosummarize = on)',
    )
    expect(broken.code).toBe(1)
    const report = JSON.parse(broken.stdout) as { ok: boolean; findings: Finding[] }
    expect(report.ok).toBe(false)
    expect(ofOurs(report.findings)).toMatchObject([
      { check: 'schema', found: 'The index seen_at is missing.' },
    ])
  })

  test('tells people what to do', async () => {
    const { code, stdout } = await twinbox('doctor', '--schema', 'nowhere')
    expect(code).toBe(1)
    expect(stdout).toMatch(/^WRONG {2}schema: There are no Twinbox tables in the schema "nowhere"/m)
    expect(stdout).toMatch(/^ {7}→ /m)
  })

  test('counts the connections that the configuration would want', async () => {
    const config = join(folder, 'greedy.config.mjs')
    await writeFile(
      config,
      `export default { consumers: { billing: { topics: ['#'], concurrency: 1000, handlers: { '#': () => {} } } } }`,
    )
    const { stdout } = await twinbox('doctor', '--config', config)
    expect(stdout).toMatch(
      /One process of this configuration may want 1018 connections.*claimer billing wants 1006/,
    )
  })
})

test('roles are printed, shown and applied', async () => {
  // Roles belong to the whole server: a schema of its own gives them names of their own.
  const schema = `roles_${process.pid}`
  try {
    await twinbox('migrate', '--schema', schema)
    const printed = await twinbox('roles', '--print', '--schema', schema)
    expect(printed.stdout).toContain(`grant insert`)
    const before = await twinbox('roles', '--schema', schema)
    expect(before).toMatchObject({ code: 0 })
    expect(before.stdout).toMatch(new RegExp(`^${schema}_publisher +no +-$`, 'm'))
    const { code, stdout } = await twinbox('roles', '--apply', '--schema', schema, '--json')
    expect(code).toBe(0)
    const { applied, roles } = JSON.parse(stdout) as { applied: boolean; roles: RoleStatus[] }
    expect(applied).toBe(true)
    expect(roles.map(({ name, exists }) => [name, exists])).toEqual(
      roleNames.map((role) => [`${schema}_${role}`, true]),
    )
    // What was printed is what was run.
    await database.query(printed.stdout)
  } finally {
    await database.query(`drop schema ${schema} cascade`)
    for (const role of roleNames) await database.query(`drop role if exists ${schema}_${role}`)
  }
})
