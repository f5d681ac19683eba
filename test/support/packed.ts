import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { packed } from './shared.ts'

const run = promisify(execFile)
const root = resolve(import.meta.dirname, '../..')
const ingredients = [
  ...[
    'package.json',
    'tsconfig.json',
    'tsconfig.build.json',
    'build.mjs',
    'src',
    'proof',
    'migrations',
    'test',
  ],
  ...['LICENSE', 'README.md', 'CHANGELOG.md', 'SECURITY.md', 'docs', 'examples'],
]

/** Packs as for the registry, into a new folder: the tarball. */
export async function pack(): Promise<{ readonly folder: string; readonly tarball: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-package-'))
  // From a copy: nothing left over from an earlier build, and nobody's work under way is disturbed.
  const source = join(folder, 'source')
  for (const name of ingredients) {
    if (existsSync(join(root, name))) await cp(join(root, name), join(source, name), { recursive: true })
  }
  await symlink(join(root, 'node_modules'), join(source, 'node_modules'))
  await run('npm', ['pack', '--silent', '--pack-destination', folder], { cwd: source })
  return {
    folder,
    tarball: join(
      folder,
      (await readdir(folder)).find((name) => name.endsWith('.tgz'))!,
    ),
  }
}

/** An empty project in which `npm install twinbox` was run, with these packages of ours beside it. */
export async function makeProject(folder: string, beside: readonly string[] = []): Promise<string> {
  const project = join(folder, 'project')
  await mkdir(project, { recursive: true })
  const manifest = { name: 'user', private: true, type: 'module' }
  await writeFile(join(project, 'package.json'), JSON.stringify(manifest))
  await run('npm', ['install', await packed(), '--no-audit', '--no-fund', '--prefer-offline'], {
    cwd: project,
  })
  await linkBeside(project, beside)
  return project
}

/** Puts packages of ours into the project, as if they had been installed. */
export async function linkBeside(project: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const link = join(project, 'node_modules', name)
    await mkdir(dirname(link), { recursive: true })
    await symlink(join(root, 'node_modules', name), link)
  }
}

/** What a user has in the environment: nothing of ours. */
export function userEnv(): NodeJS.ProcessEnv {
  const ours = /^(NODE_ENV|VITEST.*|DATABASE_URL|TWINBOX_.*)$/
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !ours.test(name)))
}

/** With which a user compiles who checks everything. */
export const strictOptions = [
  ...['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--module', 'nodenext'],
  ...['--target', 'es2023', '--lib', 'es2023,esnext.disposable'],
]
