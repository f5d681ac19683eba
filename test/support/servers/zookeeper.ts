import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePorts, javaArguments, JavaServer } from '../java.ts'
import { fetchJars } from '../kafka.ts'
import { isMissing, type Found } from '../require.ts'
import { leave, type Server } from './server.ts'

/** A real ZooKeeper: the jars come with those of Kafka 3.9. */
export interface Zookeeper {
  readonly version: string
  /** Starts an ensemble; resolves when it has a quorum. */
  start(servers?: number): Promise<Ensemble>
}

export interface Ensemble {
  /** All of them, as `host:port` with commas between. */
  readonly servers: string
  readonly nodes: readonly ZookeeperNode[]
  stop(): Promise<void>
}

/** One server of an ensemble, which a test may kill and freeze. */
export interface ZookeeperNode {
  readonly address: string
  /** Null while it does not serve. */
  mode(): Promise<'leader' | 'follower' | 'standalone' | null>
  /** How many are connected to it. Zero while it does not serve. */
  sessions(): Promise<number>
  kill(): Promise<void>
  /** Again, with what it has kept. The others may be away, so it may not serve yet. */
  start(): Promise<void>
  /** SIGSTOP: connections stay open, nothing answers. */
  freeze(): void
  thaw(): void
}

/** Found here only: each test file starts an ensemble of its own, to hurt it. */
const zookeeper: Server<{ readonly version: string }> = {
  name: 'zookeeper',
  packages: { java: ['openjdk-17-jre-headless'], mvn: ['maven'] },
  start: async () => {
    const found = await findZookeeper()
    if (isMissing(found)) return found
    return { address: { version: found.version }, from: found.version, stop: leave }
  },
}

export const servers = [zookeeper]

/** Sessions of 2 s have to be granted. Nothing else is set that is not needed to start three of them in a moment. */
const settings = {
  tickTime: 200,
  initLimit: 50,
  syncLimit: 10,
  minSessionTimeout: 1000,
  maxSessionTimeout: 60_000,
  'admin.enableServer': false,
  '4lw.commands.whitelist': 'srvr,cons',
}

export async function findZookeeper(): Promise<Found<Zookeeper>> {
  const classpath = await fetchJars('3.9')
  if (typeof classpath !== 'string') return classpath
  return { version: '3.8.4', start: (count = 3) => start(classpath, count) }
}

async function start(classpath: string, count: number): Promise<Ensemble> {
  const folder = await mkdtemp(join(tmpdir(), 'twinbox-zookeeper-'))
  const ports = await freePorts(count * 3)
  const members = Array.from({ length: count }, (_, index) => {
    const [port, quorum, election] = ports.slice(index * 3)
    return { id: index + 1, port: port!, line: `server.${index + 1}=127.0.0.1:${quorum}:${election}` }
  })
  const nodes = await Promise.all(
    members.map(async ({ id, port }) => {
      const data = join(folder, String(id))
      await mkdir(data)
      await writeFile(join(data, 'myid'), String(id))
      const lines = Object.entries({
        ...settings,
        dataDir: data,
        clientPort: port,
        clientPortAddress: '127.0.0.1',
      }).map(([name, value]) => `${name}=${value}`)
      const config = join(data, 'zoo.cfg')
      const ensemble = count === 1 ? [] : members.map(({ line }) => line)
      await writeFile(config, `${[...lines, ...ensemble].join('\n')}\n`)
      return createNode(id, port, config, classpath)
    }),
  )
  const stop = async (): Promise<void> => {
    await Promise.all(nodes.map((node) => node.kill()))
    await rm(folder, { recursive: true, force: true })
  }
  try {
    await Promise.all(nodes.map((node) => node.start()))
    for (const node of nodes) await serving(node)
  } catch (error) {
    await stop()
    throw error
  }
  return { servers: nodes.map(({ address }) => address).join(','), nodes, stop }
}

/** Resolves when it serves, alone or with a quorum. */
export async function serving(node: ZookeeperNode): Promise<void> {
  while ((await node.mode()) === null) await sleep(20)
}

function createNode(id: number, port: number, config: string, classpath: string): ZookeeperNode {
  const server = new JavaServer(`ZooKeeper server ${id}`)
  const log = `${config}.log`
  return {
    address: `127.0.0.1:${port}`,
    async mode() {
      if (!server.runs)
        throw new Error(`ZooKeeper server ${id} does not run:\n${await readFile(log, 'utf8')}`)
      const told = await ask(port, 'srvr')
      return (/^Mode: (\w+)$/m.exec(told)?.[1] as 'leader' | undefined) ?? null
    },
    sessions: async () => (await ask(port, 'cons')).match(/sid=0x/g)?.length ?? 0,
    start: () =>
      server.start(
        javaArguments(classpath, '96m', 'org.apache.zookeeper.server.quorum.QuorumPeerMain', config),
        log,
      ),
    kill: () => server.kill(),
    freeze: () => server.freeze(),
    thaw: () => server.thaw(),
  }
}

/** What it says of itself; nothing if it does not listen yet. */
async function ask(port: number, word: 'srvr' | 'cons'): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port, timeout: 1000 })
  // One that is frozen takes the connection, and says nothing.
  socket.once('timeout', () => socket.destroy())
  socket.write(word)
  return text(socket).catch(() => '')
}
