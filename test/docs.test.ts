import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { compiled } from './support/shared.ts'

/** README and docs say what is so: their code compiles and runs, their commands exist, and their links lead somewhere. */

await compiled('dist')

const run = promisify(execFile)
const docs = (await readdir('docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)
const names = ['README.md', 'CONTRIBUTING.md', 'ARCHITECTURE.md', 'examples/python/README.md', ...docs]
const pages = await Promise.all(names.map(async (name) => ({ name, text: await readFile(name, 'utf8') })))
const blocks = (text: string, language: string): string[] =>
  [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(([, code]) => code!)

/** What the blocks take for granted, by the names that they use. */
const given = `
import type { Kysely } from 'kysely'
import type { ClientBase } from 'pg'
import type * as twinbox from 'twinbox'

declare global {
  const createOutbox: typeof twinbox.createOutbox
  const createRelay: typeof twinbox.createRelay
  const createClaimer: typeof twinbox.createClaimer
  const inTransaction: typeof twinbox.inTransaction
  namespace Prisma {
    interface TransactionClient extends twinbox.PrismaTransaction {
      readonly invoice: { create(row: { data: { orderId: string } }): Promise<unknown> }
    }
  }
  const prisma: { $transaction(run: (tx: Prisma.TransactionClient) => Promise<void>): Promise<void> }
  const bind: typeof twinbox.bind
  const dataSource: {
    createQueryRunner(): unknown
    readonly manager: Pick<ClientBase, 'query'> & { save(row: { orderId: string }): Promise<unknown> }
  }
  const createSchedules: typeof twinbox.createSchedules
  const database: string
  const broker: twinbox.Broker
  const db: Kysely<{ orders: { id: string; total: number } }>
  const order: { id: string; total: number }
  const outbox: twinbox.Outbox
  const transaction: ClientBase
  const message: twinbox.NewMessage
  const messages: twinbox.NewMessage[]
  const options: { orderingLock?: boolean }
}
`

/** Inside the package its own name resolves as it does for a user, through the exports. */
const folder = `.build/docs-${process.pid}`
let database: TestDatabase
beforeAll(async () => {
  await mkdir(folder, { recursive: true })
  database = await createTestDatabase({ migrated: false })
})
afterAll(() => Promise.all([database.drop(), rm(folder, { recursive: true, force: true })]))

describe('every block of TypeScript', () => {
  let program: string

  test('compiles as strictly as anybody may want', async () => {
    const files: string[] = []
    for (const { name, text } of pages) {
      for (const [index, code] of blocks(text, 'ts').entries()) {
        const file = `${name.replace(/\W/g, '-')}-${index}.mts`
        if (text.includes(`<!-- program: test/docs.test.ts`) && index === 0) program = file
        // A module of its own, whose names are not those of the next block.
        await writeFile(join(folder, file), `${code}\nexport {}\n`)
        files.push(file)
      }
    }
    expect(files.length).toBeGreaterThan(5)
    await writeFile(join(folder, 'given.d.mts'), given)
    await writeFile(
      join(folder, 'tsconfig.json'),
      JSON.stringify({
        compilerOptions: {
          strict: true,
          noUncheckedIndexedAccess: true,
          exactOptionalPropertyTypes: true,
          noPropertyAccessFromIndexSignature: true,
          module: 'nodenext',
          target: 'es2023',
          types: ['node'],
          outDir: 'out',
          rootDir: '.',
        },
        files: [...files, 'given.d.mts'],
      }),
    )
    const { stdout } = await run('npx', ['tsc', '-p', folder]).catch((error: { stdout: string }) => error)
    expect(stdout).toBe('')
  })

  test('and the program of the README runs as it stands there', async () => {
    const readme = pages[0]!.text
    const saved = program.replace(/mts$/, 'mjs')
    const { stdout } = await run(process.execPath, [join(folder, 'out', saved)], {
      env: { ...process.env, DATABASE_URL: database.url },
      timeout: 30_000,
    })
    expect(stdout).toMatch(/^invoiced \{ order_id: 'order-\d+', total: 42 \}\n$/)
    expect(blocks(readme, 'ts')[0]!.trim().split('\n').length).toBeLessThanOrEqual(60)
  })
})

test('every command is one, with the options that it is shown with', async () => {
  const shown = new Map<string, Set<string>>()
  for (const { text } of pages) {
    for (const line of blocks(text, 'sh').join('\n').split('\n')) {
      const [, command = ''] = /^npx twinbox ([^#]*)/.exec(line) ?? []
      const words = command.trim().split(/\s+/)
      const sub = words.slice(0, /^(dead|demo|parked|messages|schedules|workers)$/.test(words[0]!) ? 2 : 1)
      const path = sub.filter((word) => /^[a-z]+$/.test(word)).join(' ')
      if (path === '') continue
      const flags = shown.get(path) ?? new Set()
      for (const [flag] of command.matchAll(/(?<=\s)--?[a-z][a-z-]*/g)) flags.add(flag)
      shown.set(path, flags)
    }
  }
  expect(shown.size).toBeGreaterThan(15)
  const help = async (path: string): Promise<string> => {
    const args = ['dist/src/cli/main.js', ...path.split(' '), '--help']
    return (await run(process.execPath, args)).stdout
  }
  for (const [path, flags] of shown) {
    const text = await help(path)
    expect(text).toContain(`Usage: twinbox ${path}`)
    expect([path, ...[...flags].filter((flag) => !new RegExp(`${flag}\\b`).test(text))]).toEqual([path])
  }
})

test('no command has a password in a flag', () => {
  const shown = pages.flatMap(({ text }) => blocks(text, 'sh').flatMap((block) => block.split('\n')))
  const inFlags = /\b(twinbox|npm run) .*:\/\/[^\s/:@]*:[^\s@]+@/
  expect(shown.filter((line) => inFlags.test(line))).toEqual([])
  expect('npx twinbox demo -d postgres://me:secret@db/x').toMatch(inFlags)
})

test('every link leads somewhere', () => {
  const anchorsOf = (text: string): string[] =>
    [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
      title!
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-'),
    )
  const broken = pages.flatMap(({ name, text }) =>
    [...text.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)].flatMap(([link, path, anchor]) => {
      const target = path === '' ? name : join(dirname(name), path!)
      const to = pages.find((page) => page.name === target)
      const leads = existsSync(target) && (anchor === undefined || anchorsOf(to?.text ?? '').includes(anchor))
      return leads ? [] : [`${name}: ${link}`]
    }),
  )
  expect(broken).toEqual([])
})

test('the README is short, and every page is linked from it', () => {
  const [readme] = pages
  for (const { text } of pages) expect(text.split('\n').length).toBeLessThanOrEqual(200)
  expect(names.slice(1).filter((name) => !readme!.text.includes(`](${name})`))).toEqual([])
})

test('the programs in Python have less than 80 lines each, and their page names each', async () => {
  const programs = (await readdir('examples/python')).filter((name) => name.endsWith('.py'))
  expect(programs.length).toBeGreaterThan(3)
  const page = pages.find(({ name }) => name === 'examples/python/README.md')!
  for (const name of programs) {
    const lines = (await readFile(`examples/python/${name}`, 'utf8')).trimEnd().split('\n')
    expect([name, lines.length < 80, page.text.includes(`](${name})`)]).toEqual([name, true, true])
  }
})
