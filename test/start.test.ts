import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { userEnv } from './support/packed.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { compiled, packed } from './support/shared.ts'

/** "Start" of the README, typed into an empty folder as it stands there, with the package as the registry would have it. */

await compiled('build')
const run = promisify(execFile)

const readme = await readFile(join(import.meta.dirname, '../README.md'), 'utf8')
const section = readme.slice(readme.indexOf('\n## Start\n'), readme.indexOf('\n## A complete program\n'))
const scripts = [...section.matchAll(/```sh\n(.*?)```/gs)].map(([, block]) =>
  block!
    .trimEnd()
    .split('\n')
    .map((line) => line.replace(/\s+#.*$/, '')),
)

describe.each([
  ['JavaScript', scripts[0]!, ['compose.yml', 'publish.mjs', 'twinbox.config.mjs']],
  ['TypeScript', scripts[1]!, ['compose.yml', 'publish.mts', 'twinbox.config.ts']],
] as const)('in %s', (_, commands, files) => {
  let folder: string
  let database: TestDatabase
  let env: NodeJS.ProcessEnv
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'twinbox-start-'))
    database = await createTestDatabase({ migrated: false })
    // Instead of docker's.
    env = { ...userEnv(), DATABASE_URL: database.url }
  })
  afterAll(async () => {
    await database.drop()
    await rm(folder, { recursive: true, force: true })
  })
  const type = (command: string) => run('sh', ['-c', command], { cwd: folder, env })

  test('six commands lead from an empty folder to the first handled message', async () => {
    expect(commands).toHaveLength(6)
    const [install, init, docker, migrate, work, publish] = commands
    expect(docker).toBe('docker compose up --wait')
    await type(
      `${install!.replace('npm install twinbox', `npm install '${await packed()}'`)} --prefer-offline --no-audit --no-fund`,
    )
    const told = await type(init!)
    // What it says to type next is what the README says.
    const next = told.stdout.split('Next:\n')[1]!.trim().split('\n')
    expect(next.map((line) => line.trim().split(/ {2,}/)[0])).toEqual([docker, migrate, work, publish])
    expect((await readdir(folder)).filter((name) => !/^(node_modules|package.*)$/.test(name))).toEqual(files)

    await type(migrate!)
    // A group of its own, which gets what Ctrl-C sends.
    const worker = spawn('sh', ['-c', work!], {
      cwd: folder,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    const closed = once(worker, 'close')
    let output = ''
    try {
      const handled = new Promise<void>((resolve, reject) => {
        const look = (chunk: Buffer): void => {
          output += chunk.toString()
          if (output.includes('handled order.placed')) resolve()
        }
        worker.stdout.on('data', look)
        worker.stderr.on('data', look)
        worker.once('exit', () => reject(new Error(`It ended: ${output}`)))
      })
      const published = await type(publish!)
      await handled
      expect(output).toContain(/order-\d+/.exec(published.stdout)![0])
    } finally {
      process.kill(-worker.pid!, 'SIGINT')
      await closed
    }
    expect(output).toMatch(/claimer billing \d+: stopped/)
  }, 240_000)

  test('what it has written compiles under the strictest options', async () => {
    const options = {
      ...{ strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: true, noEmit: true },
      ...{ noPropertyAccessFromIndexSignature: true, module: 'nodenext', target: 'es2023' },
      ...{ allowJs: true, checkJs: true, noImplicitAny: files[2].endsWith('.ts') },
    }
    await writeFile(
      join(folder, 'tsconfig.json'),
      JSON.stringify({ compilerOptions: options, files: files.slice(1) }),
    )
    const tsc = join(import.meta.dirname, '../node_modules/typescript/bin/tsc')
    const { stdout } = await run(process.execPath, [tsc, '-p', folder]).catch(
      (error: { stdout: string }) => error,
    )
    // The path in JavaScript brings no types of pg and Node, and asks for none.
    const errors = stdout.split('\n').filter((line) => line !== '' && !/TS2580|TS2591|TS7016/.test(line))
    expect(errors).toEqual([])
  })

  test('a second init overwrites nothing, and says what it has kept', async () => {
    for (const file of files) await writeFile(join(folder, file), 'mine')
    const { stdout } = await type(`${commands[1]} --json`)
    expect(JSON.parse(stdout)).toMatchObject({ written: [], kept: [files[2], files[1], files[0]] })
    for (const file of files) expect(await readFile(join(folder, file), 'utf8')).toBe('mine')
  })
})

test('beside a configuration or a compose file of another name it writes none', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-init-'))
  try {
    const main = join(import.meta.dirname, '../.build/src/cli/main.js')
    for (const name of ['twinbox.config.js', 'docker-compose.yaml'])
      await writeFile(join(folder, name), 'mine')
    const { stdout } = await run(process.execPath, [main, 'init', '--typescript', '--compose'], {
      cwd: folder,
    })
    expect((await readdir(folder)).toSorted()).toEqual([
      'docker-compose.yaml',
      'publish.mts',
      'twinbox.config.js',
    ])
    expect(stdout).toContain('Kept twinbox.config.js, which is there already')
    // Neither is there.
    expect(stdout).toContain('npm install pg jiti tsx @types/node @types/pg')
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
