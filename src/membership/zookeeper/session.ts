import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { version } from '../../base/package.ts'
import type { Entrant, SignOfLife, Told } from '../coordination.ts'
import { Client, ZookeeperError } from './client.ts'
import type { Settings } from './options.ts'

/** Shares of the time after which the servers end a session that they do not hear of. */
const lookShare = 1 / 10
const pulseShare = 1 / 6
/** Long enough to find another server in, and short enough to take the sign out of the row before it can end. */
const awayShare = 1 / 2
const reconnectShare = 1 / 3
/** Whatever has become of the session then, a new one says more. */
const endShare = 2

/**
 * A session of ZooKeeper with an ephemeral node in it: the sign of life of one worker under one id. Who else lives is a watch on
 * the node's folder.
 *
 * Nobody's sign counts as ended while this session is not heard of itself: a watch may tell of a node's end before a
 * client learns of its own. The node is named after worker and session, so it is never mistaken for that of an earlier life; and the
 * row says in which folder it is, by what was drawn when that was made: whoever uses other servers, or these after their data
 * was lost, looks for no sign of ours.
 */
export class ZookeeperSession implements SignOfLife {
  readonly #client: Client
  readonly #told: Told
  readonly #folder: string
  readonly #workerId: number
  readonly #timer: NodeJS.Timeout
  #connected = false
  #ended = false
  #sessionId: string | null = null
  /** What was drawn when the folder was made. */
  #place = ''
  /** The own node's name, once it is there. */
  #name: string | null = null
  #children: ReadonlySet<string> = new Set()
  #isGiven = false
  #isAway = false
  #breaks = 0
  /** By the monotonic clock: of what was answered last, when it was asked; when it was last asked, tried elsewhere, and looked at. */
  heardAt = performance.now()
  #askedAt = -Infinity
  #triedAt = -Infinity
  #lookedAt = performance.now()
  #asking = false

  constructor(settings: Settings, { database, schema, kind, consumer, workerId }: Entrant, told: Told) {
    this.#told = told
    this.#workerId = workerId
    const folders = [database, schema, kind, ...(consumer === '' ? [] : [consumer])]
    this.#folder = [settings.chroot, ...folders.map(nodeName)].join('/')
    this.#client = new Client(settings)
    this.#client.on('connected', () => this.#onConnected())
    this.#client.on('disconnected', () => {
      this.#connected = false
      this.#breaks++
    })
    this.#client.on('expired', () =>
      this.#end(new ZookeeperError(0, 'the session of this worker has expired')),
    )
    this.#client.on('authenticationFailed', () => this.#end(new ZookeeperError(0, 'auth was refused')))
    this.#client.connect()
    this.#timer = setInterval(() => this.#look(), settings.sessionTimeoutMs * lookShare)
  }

  get text(): string | null {
    return this.#isGiven ? `${this.#place}/${this.#name}` : null
  }

  get sessionMs(): number {
    return this.#client.sessionMs
  }

  get sight(): number | null {
    return this.#connected && this.#isGiven ? this.#breaks : null
  }

  misses(text: string): boolean {
    const [place, name = ''] = text.split('/')
    return this.sight !== null && place === this.#place && !this.#children.has(name)
  }

  async confirms(text: string): Promise<boolean> {
    const { sight } = this
    if (sight === null) return false
    try {
      // The server that is asked may be behind the others, but not behind what it has written for us itself.
      await this.#client.write(this.#path, this.#data)
      await this.#read()
    } catch {
      return false
    }
    return this.sight === sight && this.misses(text)
  }

  async leave(): Promise<void> {
    this.#ended = true
    clearInterval(this.#timer)
    await this.#client.close()
  }

  get #path(): string {
    return `${this.#folder}/${this.#name}`
  }

  /** For whoever looks there by hand. */
  get #data(): string {
    return JSON.stringify({ host: hostname(), pid: process.pid, version })
  }

  #onConnected(): void {
    if (this.#ended) return
    this.#connected = true
    const { sessionId } = this.#client
    // ClickHouse Keeper hands out another one without a word.
    if (sessionId !== (this.#sessionId ??= sessionId))
      return this.#end(new ZookeeperError(0, 'the servers have begun another session'))
    this.#arrive().catch((error: unknown) => {
      // After a break it comes here again.
      if (!(error instanceof ZookeeperError && error.isLoss)) this.#end(error)
    })
  }

  async #arrive(): Promise<void> {
    if (this.#place === '') this.#place = await this.#findPlace()
    const at = performance.now()
    if (this.#name === null) {
      const name = `${this.#workerId}-${this.#sessionId}`
      await this.#client.create(`${this.#folder}/${name}`, this.#data, true)
      this.#name = name
    }
    await this.#read()
    this.#hear(at)
  }

  async #findPlace(): Promise<string> {
    const place = await this.#client.read(this.#folder)
    if (place !== null && place !== '') return place
    const drawn = randomUUID()
    const parts = this.#folder.split('/').slice(1)
    for (const [index] of parts.entries()) {
      const path = `/${parts.slice(0, index + 1).join('/')}`
      await this.#client.create(path, path === this.#folder ? drawn : '')
    }
    // Somebody may have made it by hand.
    if ((await this.#client.read(this.#folder)) === '') await this.#client.writeFirst(this.#folder, drawn)
    // Whoever was first has drawn it for all.
    return (await this.#client.read(this.#folder)) ?? drawn
  }

  async #read(): Promise<void> {
    const before = this.#children
    this.#children = new Set(await this.#client.children(this.#folder, this.#onNews))
    // Who comes is seen soon enough, and there are many in a fleet.
    if ([...before].some((name) => !this.#children.has(name))) this.#told.onNews()
  }

  readonly #onNews = (): void => {
    if (this.#ended) return
    // If it fails, the connection does, and what follows reads again.
    this.#read().catch(() => {})
  }

  #look(): void {
    const { sessionMs } = this.#client
    const now = performance.now()
    const silentMs = now - this.heardAt
    const lateMs = now - this.#lookedAt
    this.#lookedAt = now
    if (this.#connected && !this.#asking && now - this.#askedAt >= sessionMs * pulseShare)
      void this.#pulse(now)
    if (silentMs >= sessionMs * endShare)
      return this.#end(new ZookeeperError(0, `no server has answered for ${Math.round(silentMs)} ms`))
    // It was we who stood still, and what has come meanwhile is not read yet.
    if (silentMs < sessionMs * awayShare || lateMs > 2 * sessionMs * lookShare) return
    // Before it has given a sign there is nothing to take out of the row, and no hurry to tell.
    if (!this.#isAway && (this.#name !== null || silentMs >= sessionMs)) {
      this.#isAway = true
      this.#isGiven = false
      this.#breaks++
      this.#told.onAway(new ZookeeperError(0, `no server has answered for ${Math.round(silentMs)} ms`))
    }
    if (now - this.#triedAt < sessionMs * reconnectShare) return
    this.#triedAt = now
    this.#client.reconnect()
  }

  /** Shows that the session lives, and that its node does. */
  async #pulse(at: number): Promise<void> {
    if (this.#name === null) return
    this.#asking = true
    this.#askedAt = at
    try {
      if (await this.#client.exists(this.#path)) this.#hear(at)
      else this.#end(new ZookeeperError(0, 'somebody has deleted the node of this worker'))
    } catch {
      // It goes on being silent.
    } finally {
      this.#asking = false
    }
  }

  #hear(at: number): void {
    if (this.#ended) return
    this.heardAt = Math.max(this.heardAt, at)
    if (this.#isGiven || this.#name === null) return
    this.#isGiven = true
    this.#isAway = false
    this.#told.onGiven()
  }

  #end(error: unknown): void {
    if (this.#ended) return
    this.#isGiven = false
    void this.leave()
    this.#told.onEnded(error)
  }
}

/** A name of the database as one of ZooKeeper's, which may have no slash and be no dots alone. */
const nodeName = (name: string): string => encodeURIComponent(name).replace(/^\.{1,2}$/, '_$&')
