import { OptionError, TwinboxError } from '../../base/errors.ts'
import { atMost } from '../../base/waiting.ts'
import type { Settings } from './options.ts'

/** What is used of the package, which brings no types. */
interface Library {
  createClient(servers: string, options: { readonly sessionTimeout: number; readonly spinDelay: number }): Raw
  readonly ACL: { readonly OPEN_ACL_UNSAFE: object[]; readonly CREATOR_ALL_ACL: object[] }
  readonly CreateMode: { readonly PERSISTENT: number; readonly EPHEMERAL: number }
}

type Answer<Value> = (error: (Error & { readonly code?: number }) | null, value: Value) => void

interface Raw {
  connect(): void
  close(): void
  on(state: 'connected' | 'disconnected' | 'expired' | 'authenticationFailed', hear: () => void): void
  addAuthInfo(scheme: 'digest', auth: Buffer): void
  getSessionId(): Buffer
  getSessionTimeout(): number
  create(path: string, data: Buffer, acl: object[], mode: number, answer: Answer<string>): void
  exists(path: string, answer: Answer<object | null>): void
  getData(path: string, answer: Answer<Buffer | undefined>): void
  setData(path: string, data: Buffer, version: number, answer: Answer<object>): void
  getChildren(path: string, watch: () => void, answer: Answer<string[]>): void
  /** Of its own, see `Client`. */
  readonly connectionManager: {
    socket?: { destroy(): void }
    pendingBuffer: Buffer | null
    connect(): void
    onSocketData(data: Buffer): void
  }
}

const noNode = -101
const badVersion = -103
const nodeExists = -110
const connectionLost = -4
/** How often, and how many times, a client that is to close is helped to: longer than it pauses before it connects. */
const closingMs = 500
const closingTries = 4

let library: Library | null = null

/** @throws OptionError that says how to get it */
export async function loadLibrary(): Promise<void> {
  try {
    // @ts-expect-error It has no types.
    const module = (await import('node-zookeeper-client')) as { readonly default: Library }
    library = module.default
  } catch (cause) {
    throw new OptionError(
      'coordination',
      'zookeeper() needs the package node-zookeeper-client, which could not be loaded (npm install node-zookeeper-client adds it to your project).',
      { cause },
    )
  }
}

/**
 * One session of ZooKeeper, and no other after it has expired. No call waits for longer than the session may take to expire.
 *
 * The package waits for ever for a server that is frozen, reads the answer to its greeting as that to a request once it is to close,
 * takes half an answer of the last connection for the beginning of the next one's, and throws where nobody catches it, which
 * ends the process. So it is never closed while it connects, its connection is ours to end, and what it throws ends that.
 */
export class Client {
  readonly #raw: Raw
  readonly #library: Library
  readonly #secured: boolean
  #sessionMs: number
  #isConnected = false

  constructor({ servers, sessionTimeoutMs, auth }: Settings) {
    if (library === null) throw new TypeError('node-zookeeper-client is not loaded.')
    this.#library = library
    this.#secured = auth !== null
    this.#sessionMs = sessionTimeoutMs
    // It tries them in their order: a fleet shall not come to one of them as a whole.
    const shuffled = servers
      .map((server) => ({ server, place: Math.random() }))
      .toSorted((a, b) => a.place - b.place)
      .map(({ server }) => server)
    const spinDelay = Math.min(1000, sessionTimeoutMs / 8)
    this.#raw = library.createClient(shuffled.join(','), { sessionTimeout: sessionTimeoutMs, spinDelay })
    if (auth !== null) this.#raw.addAuthInfo('digest', Buffer.from(auth))
    this.#raw.on('connected', () => {
      this.#isConnected = true
      this.#sessionMs = this.#raw.getSessionTimeout()
    })
    this.#raw.on('disconnected', () => (this.#isConnected = false))
    this.#guard()
  }

  /** As the servers have granted it; before, as it was asked for. In milliseconds. */
  get sessionMs(): number {
    return this.#sessionMs
  }

  /** Another one after a reconnection means another session, in which nothing of this one is left. */
  get sessionId(): string {
    return this.#raw.getSessionId().toString('hex')
  }

  on(state: Parameters<Raw['on']>[0], hear: () => void): void {
    this.#raw.on(state, hear)
  }

  connect(): void {
    this.#raw.connect()
  }

  /** To another server. */
  reconnect(): void {
    this.#raw.connectionManager.socket?.destroy()
  }

  /** Ends the session. Resolves when the servers know, or after a moment; one that is not connected ends by itself. */
  async close(): Promise<void> {
    const gone = new Promise<void>((resolve) => this.#raw.on('disconnected', resolve))
    const { connectionManager } = this.#raw
    const wasConnected = this.#isConnected
    if (wasConnected) this.#raw.close()
    else {
      connectionManager.connect = () => {}
      this.reconnect()
    }
    // A server that is frozen keeps it waiting, and one that it was about to connect to is connected to all the same.
    let tries = 0
    const help = setInterval(() => {
      this.reconnect()
      if (++tries === closingTries) clearInterval(help)
    }, closingMs)
    help.unref()
    if (wasConnected) await atMost(closingMs, gone)
  }

  exists(path: string): Promise<boolean> {
    return this.#ask<object | null>(`exists ${path}`, (answer) => this.#raw.exists(path, answer)).then(
      (stat) => stat !== null,
    )
  }

  /** Null if there is no such node. */
  read(path: string): Promise<string | null> {
    return this.#ask<Buffer | undefined>(`getData ${path}`, (answer) => this.#raw.getData(path, answer)).then(
      (data) => data?.toString() ?? '',
      ifCode(noNode, null),
    )
  }

  /** Unless it has been written before. */
  async writeFirst(path: string, data: string): Promise<void> {
    await this.#set(path, data, 0).catch(ifCode(badVersion, null))
  }

  async write(path: string, data: string): Promise<void> {
    await this.#set(path, data, -1)
  }

  /** If it is not there. An ephemeral one goes with the session. */
  async create(path: string, data: string, ephemeral = false): Promise<void> {
    const { ACL, CreateMode } = this.#library
    const acl = this.#secured ? ACL.CREATOR_ALL_ACL : ACL.OPEN_ACL_UNSAFE
    const mode = ephemeral ? CreateMode.EPHEMERAL : CreateMode.PERSISTENT
    await this.#ask<string>(`create ${path}`, (answer) =>
      this.#raw.create(path, Buffer.from(data), acl, mode, answer),
    ).catch(ifCode(nodeExists, null))
  }

  /** With a watch, which fires once. The same function does not fire twice. */
  children(path: string, watch: () => void): Promise<string[]> {
    return this.#ask(`getChildren ${path}`, (answer) => this.#raw.getChildren(path, watch, answer))
  }

  #guard(): void {
    const manager = this.#raw.connectionManager
    const connect = manager.connect.bind(manager)
    const read = manager.onSocketData.bind(manager)
    manager.connect = () => {
      manager.pendingBuffer = null
      connect()
    }
    manager.onSocketData = (data) => {
      try {
        read(data)
      } catch {
        this.reconnect()
      }
    }
  }

  #set(path: string, data: string, version: number): Promise<object> {
    return this.#ask(`setData ${path}`, (answer) =>
      this.#raw.setData(path, Buffer.from(data), version, answer),
    )
  }

  #ask<Value>(what: string, ask: (answer: Answer<Value>) => void): Promise<Value> {
    return new Promise((resolve, reject) => {
      const late = (): void => reject(new ZookeeperError(connectionLost, `${what}: no answer`))
      const timer = setTimeout(late, this.#sessionMs).unref()
      ask((error, value) => {
        clearTimeout(timer)
        if (error) reject(new ZookeeperError(error.code ?? 0, `${what}: ${error.message}`, { cause: error }))
        else resolve(value)
      })
    })
  }
}

/** What a server has refused, or has not answered. */
export class ZookeeperError extends TwinboxError {
  readonly isLoss: boolean
  readonly number: number

  constructor(number: number, message: string, options?: ErrorOptions) {
    super('ZOOKEEPER', `ZooKeeper: ${message}`, options)
    this.number = number
    this.isLoss = number === connectionLost
  }
}

const ifCode =
  <Value>(number: number, value: Value) =>
  (error: unknown): Value => {
    if (error instanceof ZookeeperError && error.number === number) return value
    throw error
  }
