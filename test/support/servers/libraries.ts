import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { isRequired } from '../require.ts'
import { leave, type Server } from './server.ts'

/** Data libraries, each in the newest and the oldest version that we know of: no server, but found like one. */
export interface Libraries {
  /** A module each, whose `load` imports a package of that version. */
  readonly newest: string
  readonly oldest: string
}

const sets = ['newest', 'oldest'] as const
const run = promisify(execFile)

/** 400 MB each and half a minute: only who requires them installs them. Later runs find them in the cache folder. */
export const libraries: Server<Libraries> = {
  name: 'libraries',
  start: async () => {
    const folders = await Promise.all(sets.map(folderOf))
    if (!folders.every((folder) => existsSync(folder)) && !isRequired(libraries.name)) {
      return { missing: 'they are not installed; TWINBOX_TEST_REQUIRE=libraries has them installed' }
    }
    await Promise.all(sets.map((set, index) => install(set, folders[index]!)))
    const [newest, oldest] = folders.map((folder) => join(folder, loader)) as [string, string]
    return { address: { newest, oldest }, from: 'npm, by test/libraries', stop: leave }
  },
}

export const servers = [libraries]

const loader = 'node_modules/load/index.mjs'
const source = (set: string, file: string): string => resolve('test/libraries', set, file)

/** By what is locked: another version has another folder. */
async function folderOf(set: string): Promise<string> {
  const hash = createHash('sha256')
    .update(await readFile(source(set, 'package-lock.json')))
    .update(schemaOf(set))
  return resolve('.cache/libraries', `${set}-${hash.digest('hex').slice(0, 12)}`)
}

async function install(set: string, folder: string): Promise<void> {
  if (existsSync(folder)) return
  await mkdir(join(folder, '..'), { recursive: true })
  // Renamed into place when complete: a run that is broken off leaves no half of it behind.
  const draft = await mkdtemp(`${folder}-`)
  try {
    for (const file of ['package.json', 'package-lock.json'])
      await copyFile(source(set, file), join(draft, file))
    // Some name peers that they work without. Prisma's scripts would fetch binaries that its adapter does not need.
    await run(
      'npm',
      ['ci', '--ignore-scripts', '--legacy-peer-deps', '--no-audit', '--no-fund', '--loglevel=error'],
      {
        cwd: draft,
      },
    )
    await writeFile(join(draft, 'schema.prisma'), schemaOf(set))
    // It generates without its engine, but does not begin without the file.
    const env = { ...process.env, PRISMA_SCHEMA_ENGINE_BINARY: process.execPath, CHECKPOINT_DISABLE: '1' }
    await run(
      process.execPath,
      [join('node_modules/prisma/build/index.js'), 'generate', '--schema', 'schema.prisma'],
      {
        cwd: draft,
        env,
      },
    )
    // Here, packages are found as a program of that folder finds them, and imported by Node itself.
    await mkdir(join(draft, loader, '..'))
    await writeFile(join(draft, loader), 'export const load = (name) => import(name)\n')
    await rename(draft, folder).catch((error: unknown) => {
      if (!existsSync(folder)) throw error
    })
  } finally {
    await rm(draft, { recursive: true, force: true })
  }
}

/** Prisma 6 can do without an engine since 6.16, if it is told to. */
function schemaOf(set: string): string {
  const isOld = set === 'oldest'
  return `generator client {
  provider = "prisma-client-js"
  output = "./generated"
  ${isOld ? 'previewFeatures = ["queryCompiler", "driverAdapters"]\n  engineType = "client"' : ''}
}
datasource db {
  provider = "postgresql"
  ${isOld ? 'url = "postgres://unused"' : ''}
}
model Thing {
  name String @id
  @@map("things")
}
`
}
