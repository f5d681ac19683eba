import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { connect, createServer, type AddressInfo } from 'node:net'
import { resolve } from 'node:path'
import { text } from 'node:stream/consumers'
import { promisify } from 'node:util'
import type { Found } from './require.ts'
import { allServers, type Server } from './servers/server.ts'

/**
 * What the test files of a run share: made when the first file asks for it, so that one file alone pays only for what
 * it uses. The process that runs vitest makes it and answers on a local port; each test file asks there, once.
 */
const variable = 'TWINBOX_TEST_SHARED'
const asked = new Map<string, Promise<unknown>>()

/** The address of a server that the run shares, or why there is none. */
export function shared<Address extends object>(server: Server<Address>): Promise<Found<Address>> {
  return ask(server.name) as Promise<Found<Address>>
}

/**
 * Compiles, since tests kill real processes and a process needs a program to run: sources, tests and benchmarks into
 * `.build`, or what the package publishes into `dist`. Only what has changed is compiled. Types are `npm run check`'s.
 */
export async function compiled(what: 'build' | 'dist'): Promise<void> {
  await ask(what)
}

/** The tarball of the package, as `npm publish` would send it. */
export const packed = (): Promise<string> => ask('tarball') as Promise<string>

function ask(name: string): Promise<unknown> {
  let answer = asked.get(name)
  if (answer === undefined) asked.set(name, (answer = fetchAnswer(name)))
  return answer
}

async function fetchAnswer(name: string): Promise<unknown> {
  const port = process.env[variable]
  if (port === undefined) throw new Error('The global set-up of the tests has not run.')
  const socket = connect(Number(port), '127.0.0.1')
  socket.write(name)
  const answer = JSON.parse(await text(socket)) as { value: unknown } | { error: string }
  if ('error' in answer) throw new Error(`${name} cannot be shared: ${answer.error}`)
  return answer.value
}

/** Answers the test files until it is stopped; then stops the servers that it has started. */
export async function startSharing(): Promise<() => Promise<void>> {
  const made = new Map<string, Promise<unknown>>()
  const stops: (() => Promise<void>)[] = []

  async function make(name: string): Promise<unknown> {
    if (name === 'build') return compile('tsconfig.json', '--incremental')
    // Never incremental: its record would outlive a folder that packing removes, and then nothing would be written.
    if (name === 'dist') {
      await compile('tsconfig.build.json')
      return void (await promisify(execFile)(process.execPath, ['build.mjs']))
    }
    if (name === 'tarball') {
      const { pack } = await import('./packed.ts')
      const { folder, tarball } = await pack()
      stops.push(() => rm(folder, { recursive: true, force: true }))
      return tarball
    }
    const server = (await allServers()).find((one) => one.name === name)
    if (server === undefined) throw new Error('no file of test/support/servers adds it')
    const running = await server.start()
    if ('missing' in running) return running
    stops.push(() => running.stop())
    process.stdout.write(`${name}: ${running.from}\n`)
    return running.address
  }

  const door = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', (data: Buffer) => {
      const name = data.toString()
      if (!made.has(name)) made.set(name, make(name))
      void made.get(name)!.then(
        (value) => socket.end(JSON.stringify({ value: value ?? null })),
        (error: unknown) => socket.end(JSON.stringify({ error: String(error) })),
      )
    })
  })
  door.listen(0, '127.0.0.1')
  await once(door, 'listening')
  process.env[variable] = String((door.address() as AddressInfo).port)
  return async () => {
    door.close()
    await Promise.allSettled(made.values())
    await Promise.all(stops.map((stop) => stop()))
  }
}

async function compile(project: string, ...flags: string[]): Promise<void> {
  const tsc = resolve(import.meta.dirname, '../../node_modules/typescript/bin/tsc')
  await promisify(execFile)(process.execPath, [tsc, '-p', project, '--noCheck', ...flags])
}
