import { Duplex } from 'node:stream'
import { callbackify } from 'node:util'
import type pg from 'pg'
import { OptionError } from '../base/errors.ts'
import { refuseUnknown, whole } from '../base/options.ts'

/** As much of a PGlite as is needed, by its shape: its version need not be one that we know. */
export interface PGliteLike {
  execProtocolRaw(message: Uint8Array, options?: { syncToFs?: boolean }): Promise<Uint8Array>
  /** What its own `query` and `transaction` wait for. */
  _runExclusiveTransaction?<Result>(work: () => Promise<Result>): Promise<Result>
}

/**
 * A PGlite as `pg` connects to it: `new pg.Pool(pglite(db))`, or as the `database` of everything of Twinbox. Nothing listens
 * anywhere: the bytes of the protocol go to the PGlite and back inside of this process.
 *
 * A PGlite has one session. All connections share it as they would behind a pooler in transaction mode, a transaction at a time:
 * whoever begins a second one waits until the first has ended. So whoever has one open may not wait for another one, and what is set
 * or prepared for a session is seen by all.
 *
 * @throws OptionError for what is no PGlite
 */
export function pglite(db: PGliteLike, options: PGliteOptions = {}): pg.PoolConfig {
  refuseUnknown('pglite', options, ['turnMs'])
  if (typeof db?.execProtocolRaw !== 'function')
    throw new OptionError('db', 'pglite takes a PGlite, as new PGlite() makes it.')
  const turns = new Turns(db, whole('turnMs', options.turnMs, 10_000, 1, 3_600_000))
  return {
    // Only shown: nothing is connected to.
    ...{ host: '/pglite', user: 'postgres', database: 'postgres', ssl: false },
    stream: () => new PGliteStream(db, turns),
  }
}

const exclusive = '_runExclusiveTransaction'

export interface PGliteOptions {
  /** How long a transaction may do nothing while others wait for its session. Longer, it mostly waits for itself. In milliseconds. @default 10_000 */
  readonly turnMs?: number | undefined
}

const tooLong = (ms: number): string =>
  `A PGlite has one session, and a transaction has had it for ${ms} ms and done nothing. While a transaction is open, nothing else can run: use its own client, trx or tx for all that is done meanwhile, or test on a Postgres server.`

/** Who has the one session: one at a time, in the order in which they asked. */
class Turns {
  readonly #db: PGliteLike
  readonly #turnMs: number
  #last: Promise<unknown> = Promise.resolve()
  /** When something was last done in it: a statement, or who has it. By the monotonic clock. */
  movedAt = 0

  constructor(db: PGliteLike, turnMs: number) {
    this.#db = db
    this.#turnMs = turnMs
  }

  /** Waits for the session. It is given back by calling what this gives. @throws Error if nobody gives it back in time */
  take(): Promise<() => void> {
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | null = null
      const look = (): void => {
        // In a long line, everybody waits. Who does nothing for so long may be waiting for this one.
        const restMs = this.movedAt + this.#turnMs - performance.now()
        if (restMs > 0) timer = setTimeout(look, Math.ceil(restMs))
        else {
          timer = null
          reject(new Error(tooLong(this.#turnMs)))
        }
      }
      timer = setTimeout(look, this.#turnMs)
      const work = (): Promise<void> =>
        new Promise((release) => {
          const giveBack = (): void => {
            this.movedAt = performance.now()
            release()
          }
          if (timer === null) return giveBack()
          clearTimeout(timer)
          this.movedAt = performance.now()
          resolve(giveBack)
        })
      this.#last = this.#db[exclusive]?.(work) ?? this.#last.then(work)
    })
  }
}

const startupVersion = 196_608
const terminate = 0x58
const readyForQuery = 0x5a
const idle = 0x49

/** One connection. It is made connected: `pg` calls what a socket has beside a stream. */
class PGliteStream extends Duplex {
  readonly #db: PGliteLike
  readonly #turns: Turns
  #started = false
  #rest = Buffer.alloc(0)
  /** Gives the session back, as long as this connection has it. */
  #release: (() => void) | null = null

  constructor(db: PGliteLike, turns: Turns) {
    super()
    this.#db = db
    this.#turns = turns
  }

  connect(): this {
    queueMicrotask(() => this.emit('connect'))
    return this
  }

  setNoDelay = (): this => this
  setKeepAlive = (): this => this
  ref = (): this => this
  unref = (): this => this

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    this.#rest = Buffer.concat([this.#rest, chunk])
    callbackify(() => this.#take())((error) => done(error))
  }

  override _final(done: () => void): void {
    callbackify(() => this.#leave())(() => {
      this.push(null)
      done()
    })
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    callbackify(() => this.#leave())(() => done(error))
  }

  /** Hands on the messages that have come whole. */
  async #take(): Promise<void> {
    for (;;) {
      const head = this.#started ? 1 : 0
      if (this.#rest.length < head + 4) return
      const length = head + this.#rest.readInt32BE(head)
      if (this.#rest.length < length) return
      const message = this.#rest.subarray(0, length)
      this.#rest = this.#rest.subarray(length)
      if (this.#started) await this.#answer(message)
      else this.#start(message)
    }
  }

  /** The PGlite has long been started: what a server says of itself is said here. */
  #start(message: Buffer): void {
    if (message.readInt32BE(4) !== startupVersion) return this.push(Buffer.from('N')) as never
    this.#started = true
    const said = (kind: string, ...parts: Buffer[]): Buffer => {
      const body = Buffer.concat(parts)
      const head = Buffer.alloc(5, kind)
      head.writeInt32BE(body.length + 4, 1)
      return Buffer.concat([head, body])
    }
    // The process 0 is none, so that nobody takes the session for one of its own.
    this.push(
      Buffer.concat([said('R', Buffer.alloc(4)), said('K', Buffer.alloc(8)), said('Z', Buffer.from('I'))]),
    )
  }

  async #answer(message: Buffer): Promise<void> {
    if (message[0] === terminate) return this.#leave()
    this.#release ??= await this.#turns.take()
    const answer = Buffer.from(await this.#db.execProtocolRaw(message, { syncToFs: false }))
    this.#turns.movedAt = performance.now()
    if (statusOf(answer) === idle) this.#giveBack()
    this.push(answer)
  }

  /** What is still open is rolled back, as a server does when a client is gone. */
  async #leave(): Promise<void> {
    if (this.#release === null) return
    const query = Buffer.from('Q\0\0\0\0rollback\0')
    query.writeInt32BE(query.length - 1, 1)
    await this.#db.execProtocolRaw(query, { syncToFs: false }).catch(() => {})
    this.#giveBack()
  }

  #giveBack(): void {
    this.#release?.()
    this.#release = null
  }
}

/** Of the last ReadyForQuery in an answer; null if there is none, and more is to come. */
function statusOf(answer: Buffer): number | null {
  let status: number | null = null
  for (let at = 0; at + 5 <= answer.length; at += 1 + answer.readInt32BE(at + 1))
    if (answer[at] === readyForQuery) status = answer[at + 5]!
  return status
}
