import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { Kafka, logLevel } from 'kafkajs'
import type { Certificate } from './certificates.ts'
import { freePorts, javaArguments, JavaServer } from './java.ts'
import { isMissing, type Found, type Missing } from './require.ts'

/**
 * A real Kafka for tests, found in this order: `TWINBOX_TEST_KAFKA_BROKERS`, a server on the standard port, our
 * compose file's service `kafka` if a Docker engine answers, and brokers of our own: the `org.apache.kafka` jars by
 * Maven, run in KRaft mode on free ports with a temporary log directory. Only our own can be killed and frozen.
 */

const run = promisify(execFile)
const root = resolve(import.meta.dirname, '../..')

/** What the jars are called for the version that a test asks for. */
const jars = { '3.9': '3.9.1', '4': '4.1.0' } as const
export type KafkaVersion = keyof typeof jars

export interface KafkaService {
  readonly brokers: string[]
  readonly version: string
  /** The shortest consumer session that the brokers allow: it bounds how fast a death is noticed. */
  readonly minSessionMs: number
  /** Our own broker processes, which a test may kill and freeze; empty if somebody else runs the service. */
  readonly nodes: readonly KafkaNode[]
  stop(): Promise<void>
}

export interface KafkaNode {
  readonly id: number
  readonly address: string
  /** The folder of its logs. */
  readonly logs: string
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>
  /** Starts it again on the same port with the same logs; resolves when it answers. */
  start(): Promise<void>
  /** SIGSTOP: connections stay open, nothing answers. Returns when every thread stands still. */
  freeze(): void
  /** SIGCONT. */
  thaw(): void
}

/** A Kafka that can be had, and is not running yet. */
export interface KafkaSource {
  readonly version: string
  /** True if what starts is ours, to be killed and frozen, and can have several nodes. */
  readonly ours: boolean
  start(nodes?: number): Promise<KafkaService>
}

/** Finds one and starts it. */
export async function findKafka(version: KafkaVersion = '3.9', nodes = 1): Promise<Found<KafkaService>> {
  const source = await findKafkaSource(version)
  return isMissing(source) ? source : source.start(nodes)
}

/** One broker of our own that speaks TLS on another port as well, for clients that call it localhost. */
export async function startTlsKafka(
  tls: Certificate,
): Promise<Found<KafkaService & { readonly tlsAddress: string }>> {
  const classpath = await fetchJars('3.9')
  if (typeof classpath !== 'string') return classpath
  const keystore = join(tls.folder, 'kafka.pem')
  await writeFile(keystore, (await readFile(tls.key, 'utf8')) + (await readFile(tls.certificate, 'utf8')))
  const [port] = await freePorts(1)
  const service = await startCluster('3.9', classpath, 1, {
    listeners: `SSL://127.0.0.1:${port}`,
    'advertised.listeners': `SSL://localhost:${port}`,
    'listener.security.protocol.map': 'SSL:SSL',
    'ssl.keystore.type': 'PEM',
    'ssl.keystore.location': keystore,
  })
  return { ...service, tlsAddress: `localhost:${port}` }
}

/**
 * One broker of our own that also wants to know who one is, by PLAIN (`app` with `one`), SCRAM and OAUTHBEARER. It believes any
 * unsigned token that has not expired.
 */
export async function startSaslKafka(): Promise<
  Found<
    KafkaService & {
      readonly saslAddress: string
      /** Makes a user of SCRAM, or changes the password. */
      setPassword(this: void, user: string, password: string): Promise<void>
    }
  >
> {
  const classpath = await fetchJars('3.9')
  if (typeof classpath !== 'string') return classpath
  const [port] = await freePorts(1)
  const login = (mechanism: string, module: string, options = ''): Record<string, string> => ({
    [`listener.name.sasl_plaintext.${mechanism}.sasl.jaas.config`]: `org.apache.kafka.common.security.${module} required ${options};`,
  })
  const service = await startCluster('3.9', classpath, 1, {
    listeners: `SASL_PLAINTEXT://127.0.0.1:${port}`,
    'advertised.listeners': `SASL_PLAINTEXT://127.0.0.1:${port}`,
    'listener.security.protocol.map': 'SASL_PLAINTEXT:SASL_PLAINTEXT',
    'sasl.enabled.mechanisms': 'PLAIN,SCRAM-SHA-512,OAUTHBEARER',
    ...login('plain', 'plain.PlainLoginModule', 'user_app="one"'),
    ...login('scram-sha-512', 'scram.ScramLoginModule'),
    ...login('oauthbearer', 'oauthbearer.OAuthBearerLoginModule', 'unsecuredLoginStringClaim_sub="kafka"'),
  })
  const setPassword = async (user: string, password: string): Promise<void> => {
    const change = ['--alter', '--add-config', `SCRAM-SHA-512=[password=${password}]`]
    const of = ['--entity-type', 'users', '--entity-name', user]
    const at = ['--bootstrap-server', service.brokers[0]!]
    await run('java', ['-cp', classpath, 'kafka.admin.ConfigCommand', ...at, ...change, ...of])
  }
  return { ...service, saslAddress: `127.0.0.1:${port}`, setPassword }
}

/** Without starting it, so that a suite has only one of them at a time. */
export async function findKafkaSource(version: KafkaVersion): Promise<Found<KafkaSource>> {
  const foreign = await findForeign()
  if (foreign !== null) {
    // One server has one version, and we cannot tell which: it stands for the first that is asked for.
    if (version !== '3.9') return { missing: `the Kafka at ${foreign.join(', ')} is used instead` }
    const service = {
      brokers: foreign,
      version: 'given',
      minSessionMs: 6000,
      nodes: [],
      stop: async () => {},
    }
    return { version: 'given', ours: false, start: async () => service }
  }
  const classpath = await fetchJars(version)
  if (typeof classpath !== 'string') return classpath
  return {
    version: jars[version],
    ours: true,
    start: (nodes = 1) => startCluster(version, classpath, nodes),
  }
}

async function findForeign(): Promise<string[] | null> {
  const named = process.env['TWINBOX_TEST_KAFKA_BROKERS']
  if (named !== undefined && named !== '') return named.split(',').map((broker) => broker.trim())
  const standard = '127.0.0.1:9092'
  if (await answers(standard)) return [standard]
  if (!existsSync(join(root, 'docker-compose.yml'))) return null
  try {
    await run('docker', ['info'], { timeout: 10_000 })
    await run('docker', ['compose', 'up', '--wait', 'kafka'], { cwd: root, timeout: 300_000 })
  } catch {
    return null
  }
  return (await answers(standard)) ? [standard] : null
}

/** Every jar of the broker, kept in the cache folder; a string for `java -cp`, or why there is none. */
export async function fetchJars(version: KafkaVersion): Promise<string | Missing> {
  try {
    const { stderr } = await run('java', ['-version'])
    const java = Number(/version "(\d+)/.exec(stderr)?.[1] ?? 0)
    if (java < 17) return { missing: `Kafka ${version} needs Java 17 or later; this is ${java}` }
  } catch {
    return { missing: 'no Kafka, no Docker engine and no Java to run one with' }
  }
  const folder = join(root, '.cache', 'kafka', jars[version])
  if (!existsSync(folder)) {
    await mkdir(join(folder, '..'), { recursive: true })
    // Renamed into place when complete, so that a run that was broken off leaves no half a set of jars behind.
    const draft = await mkdtemp(`${folder}-`)
    await writeFile(join(draft, 'pom.xml'), pom(jars[version]))
    try {
      await run(
        'mvn',
        ['-q', '-B', 'dependency:copy-dependencies', '-DincludeScope=runtime', '-DoutputDirectory=lib'],
        { cwd: draft, timeout: 300_000 },
      )
      await rename(draft, folder).catch((error: unknown) => {
        if (!existsSync(folder)) throw error
      })
    } catch {
      return { missing: `Maven could not fetch org.apache.kafka:kafka_2.13:${jars[version]}` }
    } finally {
      await rm(draft, { recursive: true, force: true })
    }
  }
  return join(folder, 'lib', '*')
}

const pom = (version: string): string => `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>twinbox.test</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>${version}</version></dependency>
  </dependencies>
</project>
`

async function startCluster(
  version: KafkaVersion,
  classpath: string,
  count: number,
  more: Readonly<Record<string, string>> = {},
): Promise<KafkaService> {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-kafka-'))
  const clusterId = `t${randomBytes(16).toString('base64url').slice(1)}`
  const ports = await freePorts(count * 2)
  const voters = Array.from(
    { length: count },
    (_, index) => `${index + 1}@127.0.0.1:${ports[count + index]!}`,
  )
  const nodes = Array.from({ length: count }, (_, index) =>
    createNode({
      id: index + 1,
      folder: join(folder, String(index + 1)),
      address: `127.0.0.1:${ports[index]!}`,
      clusterId,
      classpath,
      properties: joined(
        {
          'process.roles': 'broker,controller',
          'node.id': index + 1,
          'controller.quorum.voters': voters.join(','),
          'controller.listener.names': 'CONTROLLER',
          'listener.security.protocol.map': 'CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT',
          listeners: `PLAINTEXT://127.0.0.1:${ports[index]!},CONTROLLER://127.0.0.1:${ports[count + index]!}`,
          'advertised.listeners': `PLAINTEXT://127.0.0.1:${ports[index]!}`,
          'log.dirs': join(folder, String(index + 1), 'logs'),
          // Tests send records of years ago, and every five minutes Kafka would delete what it finds of them.
          'log.retention.ms': -1,
          'default.replication.factor': count,
          'min.insync.replicas': Math.min(2, count),
          'offsets.topic.replication.factor': count,
          'offsets.topic.num.partitions': 3,
          'transaction.state.log.replication.factor': count,
          'transaction.state.log.num.partitions': 1,
          'transaction.state.log.min.isr': 1,
          'group.initial.rebalance.delay.ms': 0,
          'group.min.session.timeout.ms': 500,
          'broker.session.timeout.ms': 3000,
        },
        more,
      ),
    }),
  )
  const stop = async (): Promise<void> => {
    await Promise.all(nodes.map((node) => node.kill()))
    await rm(folder, { recursive: true, force: true })
  }
  try {
    await Promise.all(nodes.map((node) => node.start()))
  } catch (error) {
    await stop()
    throw error
  }
  const brokers = nodes.map((node) => node.address)
  return { brokers, version: jars[version], minSessionMs: 1000, nodes, stop }
}

/** Properties with others; what both have is a list. */
function joined(
  properties: Readonly<Record<string, string | number>>,
  more: Readonly<Record<string, string>>,
): Record<string, string | number> {
  const both: Record<string, string | number> = { ...properties }
  for (const [name, value] of Object.entries(more)) {
    both[name] = name in properties ? `${properties[name]},${value}` : value
  }
  return both
}

interface NodeSetup {
  readonly id: number
  readonly folder: string
  readonly address: string
  readonly clusterId: string
  readonly classpath: string
  readonly properties: Readonly<Record<string, string | number>>
}

function createNode({ id, folder, address, clusterId, classpath, properties }: NodeSetup): KafkaNode {
  const settings = join(folder, 'server.properties')
  const log = join(folder, 'broker.log')
  const java = (...args: string[]): string[] => javaArguments(classpath, '512m', ...args)
  const server = new JavaServer(`Kafka node ${id}`)
  const prepare = async (): Promise<void> => {
    if (existsSync(settings)) return
    await mkdir(folder, { recursive: true })
    const lines = Object.entries(properties).map(([name, value]) => `${name}=${value}`)
    await writeFile(settings, `${lines.join('\n')}\n`)
    await run('java', java('kafka.tools.StorageTool', 'format', '-t', clusterId, '-c', settings))
  }
  return {
    id,
    address,
    logs: join(folder, 'logs'),
    async start() {
      await prepare()
      await server.start(java('kafka.Kafka', settings), log)
      while (!(await answers(address))) {
        if (!server.runs) throw new Error(`Kafka node ${id} did not start:\n${await readFile(log, 'utf8')}`)
      }
    },
    kill: () => server.kill(),
    freeze: () => server.freeze(),
    thaw: () => server.thaw(),
  }
}

/** True once a Kafka answers there with a controller. Takes a moment when nothing does, so it can be asked in a loop. */
async function answers(address: string): Promise<boolean> {
  if (!(await accepts(address))) {
    await new Promise((wake) => setTimeout(wake, 100))
    return false
  }
  const admin = new Kafka({
    brokers: [address],
    logLevel: logLevel.NOTHING,
    requestTimeout: 2000,
    retry: { retries: 0 },
  }).admin()
  try {
    await admin.connect()
    return (await admin.describeCluster()).controller !== null
  } catch {
    return false
  } finally {
    await admin.disconnect()
  }
}

function accepts(address: string): Promise<boolean> {
  const [host, port] = address.split(':')
  return new Promise((known) => {
    const socket = connect({ host: host!, port: Number(port), timeout: 1000 })
    const settle = (open: boolean) => (): void => {
      socket.destroy()
      known(open)
    }
    socket.once('connect', settle(true)).once('error', settle(false)).once('timeout', settle(false))
  })
}
