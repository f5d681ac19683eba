import { BrokerError } from '../../base/errors.ts'
import { reconnectMs } from '../../base/loop.ts'
import { pause } from '../../base/waiting.ts'
import type { SendOutcome } from '../broker.ts'
import type { ZeromqConsumer } from './addresses.ts'
import { openLink, type Link } from './link.ts'
import type { Settings } from './options.ts'
import { Window, type Entry } from './window.ts'

/** So often a connection may end over one message that is alone under way, before it is the message that is refused. */
const strikesMax = 3

/**
 * All that goes to one consumer: over one connection at a time, to one of its addresses, in the order in which it was given. While
 * none of them answers, what is given is `failed` at once, and the next address is tried again and again.
 */
export class Channel {
  readonly #settings: Settings
  readonly #name: string
  readonly #window: Window
  readonly #life = new AbortController()
  #consumer: ZeromqConsumer
  /** Of the address in use, or to be tried next. */
  #index = 0
  #link: Link | null = null
  /** Why it is not to be reached; null if it is, or if that is not known yet. */
  #down: BrokerError | null = null
  /** Since when, by the monotonic clock. */
  #downSince = 0
  #wake = (): void => {}
  /** Since when the receiver owes an answer, by the monotonic clock. */
  #quietSince = 0
  /** Whether it has answered on this connection. */
  #heard = false
  /** A message that may be what ends the connections, and how often it was alone then. */
  #suspect: { readonly id: string; strikes: number } | null = null
  readonly #running: Promise<void>

  constructor(settings: Settings, name: string, consumer: ZeromqConsumer) {
    this.#settings = settings
    this.#name = name
    this.#consumer = consumer
    this.#window = new Window(settings)
    this.#running = this.#run()
  }

  /** Its addresses, and its key, from now on. A connection that is there stays, unless its address is gone. */
  update(consumer: ZeromqConsumer): void {
    const { addresses } = this.#consumer
    if (addresses.join() === consumer.addresses.join() && this.#consumer.publicKey === consumer.publicKey)
      return
    const used = addresses[this.#index % addresses.length]!
    this.#consumer = consumer
    const stays = consumer.addresses.indexOf(used)
    this.#index = Math.max(0, stays)
    if (stays < 0) this.#link?.close(this.#error('The address has changed'))
  }

  /** Whether somebody answers. */
  get isUp(): boolean {
    return this.#link !== null
  }

  /** For how long nobody has answered; null if somebody does, or if it is not known yet. */
  get awayMs(): number | null {
    return this.#down === null ? null : performance.now() - this.#downSince
  }

  /** Each entry is settled, unless it is withdrawn before. */
  offer(entries: readonly Entry[]): void {
    const error = this.#life.signal.aborted ? this.#error('It has been closed') : this.#down
    if (error !== null) for (const entry of entries) entry.settle({ status: 'failed', error })
    else this.#window.add(entries)
    this.#wake()
  }

  /** Takes back what has no answer yet. What ZeroMQ still has of it must not go out later, so the connection ends. */
  withdraw(entries: ReadonlySet<Entry>): void {
    this.#window.withdraw(entries)
    if ([...entries].some(({ written }) => written)) this.#link?.close(this.#error('Sending was given up'))
  }

  async close(): Promise<void> {
    this.#life.abort()
    this.#link?.close(this.#error('It has been closed'))
    this.#wake()
    await this.#running
    this.#fail(this.#error('It has been closed'))
  }

  async #run(): Promise<void> {
    let failures = 0
    /** How many addresses in a row have said that they are not for this consumer. */
    let refusals = 0
    while (!this.#life.signal.aborted) {
      if (this.#down === null && this.#window.isEmpty) {
        await this.#woken()
        continue
      }
      const link = await this.#open()
      if (link instanceof BrokerError) {
        this.#fail(link)
        await pause(reconnectMs(++failures, 100, 2000), this.#life.signal)
        continue
      }
      this.#down = null
      await this.#serve(link)
      this.#index++
      if (this.#heard) {
        failures = refusals = 0
        continue
      }
      const reason = link.lost.reason as BrokerError
      refusals = reason.kind === 'config' ? refusals + 1 : 0
      if (refusals >= this.#consumer.addresses.length) this.#fail(reason)
      // Connections that come to nothing, one right after the other, would use up the ports of this machine.
      await pause(reconnectMs(++failures, 10, 2000), this.#life.signal)
    }
  }

  /** Tries each address once, beginning with the one whose turn it is. */
  async #open(): Promise<Link | BrokerError> {
    const errors: BrokerError[] = []
    for (let tries = this.#consumer.addresses.length; tries > 0; tries--) {
      const { addresses, publicKey } = this.#consumer
      const target = { consumer: this.#name, address: addresses[this.#index % addresses.length]!, publicKey }
      try {
        return await openLink(
          this.#settings,
          target,
          (id, refused) => this.#answer(id, refused),
          this.#life.signal,
        )
      } catch (error) {
        errors.push(error instanceof BrokerError ? error : this.#error('It cannot be reached', error))
        this.#index++
      }
    }
    // What waiting does not mend is told before what it may.
    const worst = errors.find(({ kind }) => kind === 'config') ?? errors[0]!
    if (errors.length === 1) return worst
    const text = `${worst.message} Nor does another of its ${errors.length} addresses answer.`
    return new BrokerError(worst.kind, text, { cause: worst.cause })
  }

  /** Sends over a connection until it is lost. */
  async #serve(link: Link): Promise<void> {
    const { ackTimeoutMs } = this.#settings
    this.#link = link
    this.#heard = false
    this.#window.rewind()
    const watch = setInterval(
      () => {
        if (this.#window.unconfirmed > 0 && performance.now() - this.#quietSince > ackTimeoutMs)
          link.close(this.#error(`It has acknowledged nothing for ${ackTimeoutMs} ms (ackTimeoutMs)`))
      },
      Math.ceil(ackTimeoutMs / 4),
    )
    link.lost.addEventListener('abort', () => this.#wake(), { once: true })
    while (!link.lost.aborted) {
      const entry = this.#window.next(this.#suspect !== null)
      if (entry === null) {
        await this.#woken()
        continue
      }
      if (this.#window.unconfirmed === 1) this.#quietSince = performance.now()
      entry.written = true
      await link.send(entry.frames)
    }
    clearInterval(watch)
    this.#link = null
    if (link.cut && !this.#heard) this.#suspectFirst()
  }

  #answer(id: string, refused: string | null): void {
    const entry = this.#window.confirm(id)
    if (entry === null) return
    this.#heard = true
    this.#suspect = null
    this.#quietSince = performance.now()
    if (refused === null) entry.settle({ status: 'sent' })
    else {
      const text = `The consumer ${this.#name} refuses the message: ${refused}`
      entry.settle({ status: 'rejected', error: new BrokerError('retry', text) })
    }
    this.#wake()
  }

  /**
   * A receiver ends the connection over a frame that is too large for it, and a process may die of a message; nobody says of which.
   * So they go one by one, and the one that is always alone then is refused by itself.
   */
  #suspectFirst(): void {
    const { first } = this.#window
    if (first === undefined) return
    if (this.#suspect?.id !== first.id) {
      this.#suspect = { id: first.id, strikes: 0 }
      return
    }
    if (++this.#suspect.strikes < strikesMax) return
    this.#suspect = null
    this.#window.withdraw(new Set([first]))
    const text =
      `The connection to consumer ${this.#name} ended ${strikesMax} times while the message was alone under way. It may be ` +
      'larger than what its receivers take (maxMessageBytes).'
    first.settle({ status: 'rejected', error: new BrokerError('retry', text) })
  }

  #fail(error: BrokerError): void {
    if (this.#down === null) this.#downSince = performance.now()
    this.#down = error
    for (const entry of this.#window.clear()) entry.settle(withoutAnswer(entry, error))
  }

  #woken(): Promise<void> {
    return new Promise((resolve) => (this.#wake = resolve))
  }

  #error(what: string, cause?: unknown): BrokerError {
    return new BrokerError('reconnect', `Consumer ${this.#name}: ${what}.`, { cause })
  }
}

/** What is to be said of a message that got no answer, `because` sending ended early. */
export function withoutAnswer({ written }: Entry, because: BrokerError): SendOutcome {
  if (!written) return { status: 'failed', error: because }
  return { status: 'unknown', error: new BrokerError('unknown', because.message, { cause: because }) }
}
