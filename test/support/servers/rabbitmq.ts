import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { connect } from 'amqplib'
import { describeError } from '../../../src/base/errors.ts'
import type { Certificate } from '../certificates.ts'
import { portOf } from '../../../proof/stage/proxy.ts'
import { isMissing, type Found } from '../require.ts'
import { leave, type Server } from './server.ts'

const run = promisify(execFile)

export interface RabbitmqAddress {
  readonly url: string
}

/** A RabbitMQ node of our own, that tests may hurt. */
export interface OwnRabbitmq extends RabbitmqAddress {
  readonly stop: () => Promise<void>
  /** Where it speaks TLS, if it was given a certificate. */
  readonly tlsPort: number
  /** Runs `rabbitmqctl` on it, and gives what that printed. */
  ctl(this: void, ...args: string[]): Promise<string>
}

const localUrl = 'amqp://guest:guest@127.0.0.1:5672'
/** The Debian package's own scripts: those in /usr/sbin change the user and drop the environment. */
const binaries = ['/usr/lib/rabbitmq/bin', '/usr/sbin', '/opt/rabbitmq/sbin', '/usr/local/sbin']

/** A RabbitMQ, found in this order: the environment's, one on the standard port, one in Docker, one of our own. */
export const rabbitmq: Server<RabbitmqAddress> = {
  name: 'rabbitmq',
  variable: 'TWINBOX_TEST_RABBITMQ_URL',
  packages: { 'rabbitmq-server': ['rabbitmq-server'], openssl: ['openssl'] },
  brokerUrl: ({ url }) => url,
  start: async () => {
    const given = process.env[rabbitmq.variable!]
    if (given !== undefined) return { address: { url: given }, from: rabbitmq.variable!, stop: leave }
    const address = { url: localUrl }
    if (await answers(localUrl)) return { address, from: 'the server on port 5672', stop: leave }
    if ((await startInDocker()) && (await answers(localUrl))) return { address, from: 'Docker', stop: leave }
    const own = await startRabbitmq()
    if (!isMissing(own)) return { address: { url: own.url }, from: 'a node of our own', stop: own.stop }
    return { missing: `nothing in ${rabbitmq.variable} or on port 5672, no Docker, and ${own.missing}` }
  },
}

export const servers = [rabbitmq]

/**
 * Starts a node of our own with a free port and temporary files. It refuses messages of more than 1 MiB, and looks
 * for timeouts every second rather than every minute. With a certificate it speaks TLS on another port as well; with a key it
 * takes JSON web tokens signed by it (HS256) as passwords.
 */
export async function startRabbitmq(tls?: Certificate, tokenKey?: string): Promise<Found<OwnRabbitmq>> {
  const bin = binaries.find((folder) => existsSync(join(folder, 'rabbitmq-server')))
  if (bin === undefined) {
    return { missing: `there is no rabbitmq-server in ${binaries.join(', ')}` }
  }
  const home = await mkdtemp(join(tmpdir(), 'twinbox-rabbitmq-'))
  const port = await freePort()
  const config = join(home, 'rabbitmq.conf')
  const tlsPort = await freePort()
  const lines = [
    `listeners.tcp.1 = 127.0.0.1:${port}`,
    `max_message_size = ${ownMaxMessageBytes}`,
    ...(tls === undefined
      ? []
      : [
          `listeners.ssl.1 = 127.0.0.1:${tlsPort}`,
          `ssl_options.cacertfile = ${tls.ca}`,
          `ssl_options.certfile = ${tls.certificate}`,
          `ssl_options.keyfile = ${tls.key}`,
        ]),
  ]
  await writeFile(config, `${lines.join('\n')}\n`)
  const [settings, plugins, more] =
    tokenKey === undefined
      ? ['', '', '']
      : [
          ', {auth_backends, [rabbit_auth_backend_internal, rabbit_auth_backend_oauth2]}',
          'rabbitmq_auth_backend_oauth2',
          `, {rabbitmq_auth_backend_oauth2, [{resource_server_id, <<"rabbitmq">>}, {key_config, [{default_key, <<"test">>},
            {signing_keys, #{<<"test">> => {map, #{<<"kty">> => <<"MAC">>, <<"alg">> => <<"HS256">>,
            <<"value">> => <<"${tokenKey}">>}}}}]}]}`,
        ]
  await writeFile(
    join(home, 'advanced.config'),
    `[{rabbit, [{channel_tick_interval, 1000}${settings}]}${more}].\n`,
  )
  await writeFile(join(home, 'enabled_plugins'), `[${plugins}].\n`)
  await writeFile(join(home, 'env.conf'), '')
  const env = {
    PATH: process.env['PATH'],
    LANG: 'C.UTF-8',
    HOME: home,
    ERL_EPMD_ADDRESS: '127.0.0.1',
    ERL_FLAGS: '-kernel inet_dist_use_interface {127,0,0,1}',
    RABBITMQ_NODENAME: `twinbox${port}@localhost`,
    RABBITMQ_DIST_PORT: String(await freePort()),
    RABBITMQ_MNESIA_BASE: join(home, 'mnesia'),
    RABBITMQ_LOG_BASE: join(home, 'log'),
    RABBITMQ_CONFIG_FILE: config,
    RABBITMQ_ADVANCED_CONFIG_FILE: join(home, 'advanced.config'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(home, 'enabled_plugins'),
    RABBITMQ_CONF_ENV_FILE: join(home, 'env.conf'),
    RABBITMQ_PID_FILE: join(home, 'pid'),
  }
  const server = spawn(join(bin, 'rabbitmq-server'), { env, stdio: 'ignore', detached: true })
  const exited = once(server, 'exit')
  // Its own process group: the shell script and the Erlang machine under it, and nobody else.
  const kill = (): void => {
    try {
      process.kill(-server.pid!, 'SIGKILL')
    } catch {
      // Gone already.
    }
  }
  process.once('exit', kill)
  const stop = async (): Promise<void> => {
    process.off('exit', kill)
    kill()
    await exited
    await rm(home, { recursive: true, force: true, maxRetries: 5 })
  }

  const url = `amqp://guest:guest@127.0.0.1:${port}`
  for (let tries = 0; !(await answers(url)); tries++) {
    if (server.exitCode !== null || tries > 300) {
      await stop()
      return { missing: `${bin}/rabbitmq-server did not start` }
    }
    await sleep(200)
  }
  return {
    url,
    tlsPort,
    stop,
    ctl: async (...args) => (await run(join(bin, 'rabbitmqctl'), ['-q', ...args], { env })).stdout,
  }
}

/** The largest message that a node of our own takes. */
export const ownMaxMessageBytes = 1024 * 1024

/** Takes away what a test has declared on a server that others use: a thousand quorum queues bring it down. */
export async function removeTopology(url: string, exchange: string, queue: string): Promise<void> {
  const connection = await connect(url, { timeout: 10_000 })
  connection.on('error', () => {})
  const channel = await connection.createChannel()
  channel.on('error', () => {})
  await channel.deleteQueue(queue)
  await channel.deleteExchange(exchange)
  await connection.close()
}

async function answers(url: string): Promise<boolean> {
  try {
    const connection = await connect(url, { timeout: 2000 })
    connection.on('error', () => {})
    await connection.close()
    return true
  } catch {
    return false
  }
}

async function startInDocker(): Promise<boolean> {
  try {
    await run('docker', ['info'], { timeout: 5000 })
    await run('docker', ['compose', 'up', '--wait', 'rabbitmq'], { timeout: 180_000 })
    return true
  } catch (error) {
    if (existsSync('/var/run/docker.sock'))
      process.stderr.write(`No RabbitMQ in Docker: ${describeError(error)}\n`)
    return false
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const port = portOf(server)
  server.close()
  await once(server, 'close')
  return port
}
