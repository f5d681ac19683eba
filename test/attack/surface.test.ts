import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { createEndpoint, type Endpoint } from '../../src/cli/endpoint.ts'
import { Command, type Output } from '../support/command.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

/**
 * Scraper → endpoint, and shell → command line: what a stranger who reaches the port sends, and what a script, an empty
 * variable, a folder or an environment hands to a command. Nothing is told that is not for them, and nothing deleted that was
 * not named.
 */

let database: TestDatabase
let folder: string
beforeAll(async () => {
  database = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'twinbox-attack-'))
})
afterAll(async () => {
  await database.drop()
  await rm(folder, { recursive: true, force: true })
})

describe('the endpoint', () => {
  let endpoint: Endpoint
  let port: number
  beforeAll(async () => {
    endpoint = await createEndpoint({
      ...{ database: database.url, schema: 'twinbox', port: 0, host: '0.0.0.0', stuckAfterMs: undefined },
      token: 'secret',
    })
    const said: string[] = []
    await endpoint.open([], { say: (text: string) => said.push(text) } as never)
    port = Number(/:(\d+) has/.exec(said[0]!)![1])
  })
  afterAll(() => endpoint.close())

  /** All that the server answers to these bytes until it, or we after its last answer, end the connection. */
  async function exchange(bytes: string | Buffer, answers = 1): Promise<string> {
    const socket = connect(port, '127.0.0.1')
    let heard = ''
    socket.on('error', () => {})
    const done = new Promise<void>((resolve) => {
      socket.on('close', () => resolve())
      socket.on('data', (data: Buffer) => {
        heard += data.toString('latin1')
        if (heard.split('HTTP/1.1 ').length > answers) setImmediate(() => socket.destroy())
      })
    })
    await once(socket, 'connect')
    socket.write(bytes)
    await done
    return heard
  }
  const request = (line: string, ...headers: string[]): string =>
    [`${line} HTTP/1.1`, 'Host: a', ...headers, '', ''].join('\r\n')
  const lives = async (): Promise<void> => {
    const { status } = await fetch(`http://127.0.0.1:${port}/health/live`)
    expect(status).toBe(200)
  }

  test.each([
    ...[
      'GET //metrics',
      'GET /metrics/',
      'GET /./metrics',
      'GET /%6detrics',
      'GET /METRICS',
      'GET /metrics;a=b',
    ],
    ...[
      'GET /health/../metrics',
      'GET /health/%2e%2e/metrics',
      'GET http://a/metrics',
      'GET http://x:y@a/metrics',
    ],
    ...['GET /metrics?token=secret', 'GET /metrics#secret', 'GET \\metrics', 'GET /\\metrics', 'GET metrics'],
    ...['HEAD /metrics', 'POST /metrics', 'PUT /metrics', 'OPTIONS *', 'TRACE /metrics', 'PROPFIND /metrics'],
    ...['GET /../../../../etc/passwd', 'GET /%00', 'GET /\u00e9', 'GET ///', 'GET https:metrics', 'GET *'],
  ])('%s without the token shows no metric, and it lives', async (line) => {
    const heard = await exchange(request(line))
    expect(heard).not.toMatch(/twinbox_|root:|# HELP/)
    expect(heard).not.toMatch(/^HTTP\/1\.1 5/)
    await lives()
  })

  test.each([
    ['two tokens, one of them right', ['Authorization: Bearer x', 'Authorization: Bearer secret']],
    ['a token of 15 kB', [`Authorization: Bearer ${'x'.repeat(15_000)}`]],
    ['the token in other cases', ['Authorization: bearer SECRET']],
    ['the token with more behind it', ['Authorization: Bearer secret, Bearer x']],
    ['the token by another header', ['X-Authorization: Bearer secret', 'Cookie: token=secret']],
    ['the token of a proxy', ['Proxy-Authorization: Bearer secret']],
    ['a prototype', ['__proto__: x', 'constructor: x']],
    [
      'a claim to come from here',
      ['X-Forwarded-For: 127.0.0.1', 'Forwarded: for=127.0.0.1', 'Host: localhost'],
    ],
  ])('%s: no metrics', async (_, headers) => {
    const heard = await exchange(request('GET /metrics', ...headers))
    expect(heard).toMatch(/^HTTP\/1\.1 (401|400)/)
    expect(heard).not.toContain('# HELP')
    await lives()
  })

  test.each<[string, string | Buffer]>([
    ['no HTTP at all', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'],
    ['HTTP/2 without being asked', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['100 kB of headers', request('GET /health/live', `A: ${'x'.repeat(100_000)}`)],
    ['3,000 headers', request('GET /health/live', ...Array.from({ length: 3000 }, (_, n) => `A${n}: x`))],
    ['a tunnel', request('CONNECT db.internal:5432')],
    ['two lengths', request('POST /health/live', 'Content-Length: 5', 'Content-Length: 6')],
    ['a length and chunks', request('POST /health/live', 'Content-Length: 5', 'Transfer-Encoding: chunked')],
    ['a negative length', request('POST /health/live', 'Content-Length: -1')],
    ['line breaks in a header', 'GET /health/live HTTP/1.1\r\nHost: a\r\nA: b\rC: d\n\r\n\r\n'],
    ['an address that is none', request('GET http://[')],
  ])('%s: refused or cut, and it lives', async (_, bytes) => {
    const heard = await exchange(bytes)
    expect(heard).not.toMatch(/^HTTP\/1\.1 200/)
    expect(heard).not.toMatch(/node:internal|at /)
    await lives()
  })

  test('200 requests in one go are answered in their order, each by itself', async () => {
    const paths = Array.from({ length: 200 }, (_, n) => ['/health/live', '/nothing', '/metrics'][n % 3]!)
    const heard = await exchange(paths.map((path) => request(`GET ${path}`)).join(''), 200)
    const found = [...heard.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status)
    expect(found).toEqual(paths.map((path) => ({ '/health/live': '200', '/nothing': '404' })[path] ?? '401'))
    await lives()
  })

  test('a thousand who ask at once are answered', async () => {
    const asked = Array.from({ length: 20 }, () =>
      exchange(Array.from({ length: 50 }, () => request('GET /health/ready')).join(''), 50),
    )
    for (const heard of await Promise.all(asked)) expect(heard.match(/200 OK/g)).toHaveLength(50)
    await lives()
  })
})

describe('the command line', () => {
  const twinbox = (args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Output> =>
    new Command(folder, args, { TWINBOX_DATABASE_URL: database.url, ...env }).done
  const letters = async (): Promise<string[]> =>
    (await database.query<{ key: string }>('select key from twinbox.dead_letter order by number')).map(
      ({ key }) => key,
    )
  const keys = ['--all', '%', '_', 'a%b', 'axb', "'", '*', '$(id)', '-1', ' k ']
  beforeEach(async () => {
    await database.query('truncate twinbox.dead_letter restart identity')
    for (const key of keys)
      await database.query(
        `insert into twinbox.dead_letter (id, attempt, consumer, topic, key, payload, reason)
        values (gen_random_uuid(), 1, 'c', 't', $1, '{"secret":1}', $2)`,
        [key, `because of ${key}`],
      )
  })

  test.each(
    [
      ['dead', 'skip', '--yes', '--key', ''],
      ['dead', 'skip', '--yes', '--key='],
      ['dead', 'skip', '--yes', '--consumer', ''],
      ['dead', 'skip', '--yes', '--topic', ''],
      ['dead', 'skip', '--yes', '--error', ''],
      ['dead', 'skip', '--yes', '--class', ''],
      ['dead', 'skip', '--yes', '--older-than', ''],
      ['dead', 'skip', '--yes', ''],
      ['parked', 'skip', ''],
      ['erase', '--yes', '--key', ''],
      ['erase', '--yes', '--id', ''],
      ['erase', '--yes', '--dedupe-key', ''],
    ].map((args) => [args.join(' '), args] as const),
  )('an empty variable in a script deletes nothing: %s', async (_, args) => {
    expect(await twinbox(args)).toMatchObject({ code: 2, stdout: '' })
    expect(await letters()).toEqual(keys)
  })

  test('what looks like an option or a pattern is the key that it is, and nothing else is deleted', async () => {
    const rest = [...keys]
    for (const key of ['--all', '%', '_', '-1']) {
      const { code, stdout } = await twinbox(['dead', 'skip', '--yes', `--key=${key}`])
      expect([code, stdout]).toEqual([0, 'Skipped: 1.\n'])
      rest.splice(rest.indexOf(key), 1)
      expect(await letters()).toEqual(rest)
    }
    expect(await twinbox(['dead', 'skip', '--yes', '--error', 'because of %'])).toMatchObject({
      stdout: 'Skipped: 0.\n',
    })
    expect(await letters()).toEqual(rest)
  })

  test.each(
    [
      ...['-1', '1e3', ' 1', '\uff11', '9'.repeat(30), '1;drop'].map((name) => [
        'dead',
        'skip',
        '--yes',
        name,
      ]),
      ['dead', 'list', '--after', '1 or 1=1'],
      ['dead', 'redrive', '--rate', '1e9', '--all'],
      ['dead', 'skip', '--yes', '--older-than', '-1h'],
      ['status', '--schema', "twinbox'; drop schema twinbox cascade; --"],
      ['messages', 'show', '%'],
      ['prune', '--yes'],
    ].map((args) => [args.join(' '), args] as const),
  )('used wrongly, it says so in one breath and deletes nothing: %s', async (_, args) => {
    const { code, stderr } = await twinbox(args)
    expect(code).toBe(2)
    expect(stderr).not.toMatch(/\n\s+at |node:internal/)
    expect(await letters()).toEqual(keys)
  })

  test('dead export writes to no link, no folder, no device and over no file', async () => {
    const target = join(folder, 'target')
    await writeFile(target, 'mine', { mode: 0o644 })
    await symlink(target, join(folder, 'link'))
    await symlink(join(folder, 'nowhere'), join(folder, 'dangling'))
    await mkdir(join(folder, 'sub'))
    for (const out of ['target', 'link', 'dangling', 'sub', '/dev/null', '/dev/stdout', 'none/such', '']) {
      const { code, stderr } = await twinbox(['dead', 'export', '--out', out])
      expect([out, code]).toEqual([out, expect.toSatisfy((found: number) => found === 1 || found === 2)])
      expect(stderr).not.toMatch(/\n\s+at |node:internal/)
    }
    expect(await readFile(target, 'utf8')).toBe('mine')
    expect((await readdir(folder)).toSorted()).toEqual(['dangling', 'link', 'sub', 'target'])
    for (const command of [
      ['dead', 'export'],
      ['export', '--key', '%'],
    ]) {
      const name = `${command[0]!}.jsonl`
      expect((await twinbox([...command, '--out', name])).code).toBe(0)
      expect((await stat(join(folder, name))).mode & 0o777).toBe(0o600)
    }
  })

  test('a file that ends too early, for want of room, is said in words', async () => {
    await database.query(`insert into twinbox.dead_letter (id, attempt, consumer, topic, key, payload, reason)
      select gen_random_uuid(), 1, 'c', 't', 'k', to_json(repeat('x', 20000)), 'r' from generate_series(1, 200)`)
    const { execFile } = await import('node:child_process')
    const out = join(folder, 'short.jsonl')
    const found = await new Promise<{ code: unknown; stderr: string }>((resolve) => {
      execFile(
        'bash',
        [
          '-c',
          `ulimit -f 8; exec "$0" "$@"`,
          process.execPath,
          '.build/src/cli/main.js',
          'dead',
          'export',
          '--out',
          out,
        ],
        { env: { ...process.env, TWINBOX_DATABASE_URL: database.url } },
        (error, _, stderr) => resolve({ code: error?.code, stderr }),
      )
    })
    expect(found.code).toBe(1)
    expect(found.stderr).not.toMatch(/\n\s+at |node:internal|Unhandled/)
    expect(found.stderr).toMatch(/EFBIG|too large/i)
  })

  test('an environment that is set up against it changes nothing', async () => {
    const sound = await twinbox(['dead', 'list', '--json'])
    expect(sound.code).toBe(0)
    for (const env of [
      { PGOPTIONS: '-c search_path=evil -c default_transaction_read_only=on', PGAPPNAME: 'x\u001b[2J' },
      { COLUMNS: '1', LINES: '-5', TERM: '\u001b[2J', FORCE_COLOR: '3', NODE_DISABLE_COLORS: '0' },
      {
        DATABASE_URL: 'postgres://evil.invalid/x',
        TWINBOX_BROKER: '',
        TWINBOX_SCHEMA: '',
        TWINBOX_CONFIG: '',
      },
      {
        PGHOST: 'evil.invalid',
        PGPORT: '1',
        PGDATABASE: 'evil',
        PGSSLMODE: 'disable',
        PGPASSFILE: '/etc/passwd',
      },
      { LANG: 'tr_TR.UTF-8', TZ: 'Pacific/Apia', LC_ALL: 'x\n' },
    ])
      expect(await twinbox(['dead', 'list', '--json'], env)).toEqual(sound)
    const wide = await twinbox(['dead', 'list'], { COLUMNS: '1', FORCE_COLOR: '3', TERM: 'xterm-256color' })
    // eslint-disable-next-line no-control-regex
    expect(wide.stdout).not.toMatch(/\u001b/)
  })

  test('an empty token for metrics is not taken for none', async () => {
    const { code, stderr } = await twinbox(
      ['relay', '--broker', 'postgres', '--metrics-port', '0', '--metrics-host', '0.0.0.0'],
      { TWINBOX_METRICS_TOKEN: '' },
    )
    expect([code, stderr]).toEqual([2, expect.stringMatching(/^TWINBOX_METRICS_TOKEN is empty/)])
  })

  test('a configuration is not run unless it is that of the folder or named, and what it throws is shown harmless', async () => {
    const place = join(folder, 'configured')
    await mkdir(place)
    const file = join(place, 'twinbox.config.mjs')
    await writeFile(join(place, 'evil.mjs'), `import fs from 'node:fs'; fs.writeFileSync('ran', '')`)
    await writeFile(file, `throw new Error('a\\u001b[2J\\u202e\\u009b31m b')`)
    const run = (args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Output> =>
      new Command(place, args, { TWINBOX_DATABASE_URL: database.url, ...env }).done
    const { code, stderr } = await run(['status'])
    expect(code).toBe(1)
    // eslint-disable-next-line no-control-regex
    expect(stderr).not.toMatch(/[\u001b\u009b\u202e]/)
    for (const text of [
      'export default null',
      'export default new Proxy({}, { ownKeys() { throw new Error("no") } })',
    ]) {
      await writeFile(file, text)
      const found = await run(['status'])
      expect(found.code).not.toBe(0)
      expect(found.stderr).not.toMatch(/\n\s+at |node:internal/)
    }
    await rm(file)
    expect((await run(['status', '--json'])).code).toBe(0)
    expect(await readdir(place)).toEqual(['evil.mjs'])
  })
})
