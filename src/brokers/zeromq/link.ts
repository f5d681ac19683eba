import { randomBytes } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import type { Dealer } from 'zeromq'
import { BrokerError, describeError } from '../../base/errors.ts'
import { onAbort, within } from '../../base/waiting.ts'
import { readAddress } from './addresses.ts'
import { readAnswer, toIdentity, type Frames } from './frames.ts'
import { loadZeromq } from './library.ts'
import type { Settings } from './options.ts'

/** Where a link leads. */
export interface Target {
  readonly consumer: string
  readonly address: string
  readonly publicKey?: string | undefined
}

/** A connection to one receiver. It is not mended: whoever needs another opens another. */
export interface Link {
  /** Aborts when it is of no more use. The reason is a BrokerError. */
  readonly lost: AbortSignal
  /** Whether the other end ended it, and not we. */
  readonly cut: boolean
  /** Hands frames to ZeroMQ, which says nothing of their arrival. One call at a time. Never rejects: it is lost then. */
  send(frames: Frames): Promise<void>
  close(reason: BrokerError): void
}

/** An answer to one message. */
export type OnAnswer = (id: string, refused: string | null) => void

/** As many signs of life in a row may be missed. */
const beats = 3
/** What a receiver answers is short. */
const answerBytes = 64 * 1024

/**
 * Connects, once. Resolves when the other end has shown that it speaks ZeroMQ, and with `curve` that it has the right key.
 * @throws BrokerError
 */
export async function openLink(
  settings: Settings,
  target: Target,
  onAnswer: OnAnswer,
  signal: AbortSignal,
): Promise<Link> {
  const { Dealer } = await loadZeromq()
  const where = await resolveAddress(target.address)
  const keys = await settings.curve?.()
  signal.throwIfAborted()
  const { heartbeatMs } = settings
  const dealer = new Dealer({
    // Nothing waits for a connection that is not there, nor after the end: the outbox has it all.
    immediate: true,
    linger: 0,
    reconnectInterval: -1,
    connectTimeout: beats * heartbeatMs,
    handshakeInterval: beats * heartbeatMs,
    // How much is under way is bounded by the window, in bytes as well.
    sendHighWaterMark: 0,
    sendTimeout: beats * heartbeatMs,
    maxMessageSize: answerBytes,
    ipv6: true,
    heartbeatInterval: heartbeatMs,
    heartbeatTimeout: beats * heartbeatMs,
    routingId: toIdentity(target.consumer, randomBytes(8).toString('hex')),
    ...(keys !== undefined && {
      curveServerKey: target.publicKey!,
      curvePublicKey: keys.publicKey,
      curveSecretKey: keys.secretKey,
    }),
  })
  const link = watch(dealer, target, onAnswer)
  const stopListening = onAbort(signal, () => link.close(toLost(target, signal.reason)))
  const timer = setTimeout(
    () => link.close(toLost(target, 'it did not answer', keys === undefined ? '' : keyHint)),
    beats * heartbeatMs,
  )
  try {
    dealer.connect(where)
    await within(link.lost, link.ready)
    return link
  } catch (error) {
    link.close(toLost(target, error))
    throw error instanceof BrokerError ? error : toLost(target, error)
  } finally {
    clearTimeout(timer)
    stopListening()
  }
}

const keyHint = ' (with another key than publicKey says, it would not)'

/** Resolved here, since ZeroMQ would let all its connections wait for the answer of a name server. @throws BrokerError */
async function resolveAddress(address: string): Promise<string> {
  const { host, port } = readAddress('consumers', address)
  const numeric = isIP(host) === 0 ? await resolveHost(host) : host
  return `tcp://${isIP(numeric) === 6 ? `[${numeric}]` : numeric}:${port}`
}

async function resolveHost(host: string): Promise<string> {
  try {
    return (await lookup(host)).address
  } catch (cause) {
    throw new BrokerError('reconnect', `The name ${host} leads to no address: ${describeError(cause)}`, {
      cause,
    })
  }
}

function toLost({ consumer, address }: Target, reason: unknown, hint = ''): BrokerError {
  if (reason instanceof BrokerError) return reason
  return new BrokerError(
    'reconnect',
    `The consumer ${consumer} is not to be reached at ${address}: ${describeError(reason)}${hint}`,
    reason instanceof Error ? { cause: reason } : {},
  )
}

interface Watched extends Link {
  readonly ready: Promise<void>
}

function watch(dealer: Dealer, target: Target, onAnswer: OnAnswer): Watched {
  const life = new AbortController()
  let cut = false
  let isReady = (): void => {}
  const ready = new Promise<void>((resolve) => (isReady = resolve))
  const close = (reason: BrokerError): void => {
    if (life.signal.aborted) return
    life.abort(reason)
    dealer.close()
  }
  const follow = async (): Promise<void> => {
    for await (const event of dealer.events) {
      if (life.signal.aborted) return
      if (event.type === 'handshake') isReady()
      else if (event.type === 'disconnect' || event.type === 'close') {
        cut = true
        // The last answers may have come together with the end, and be there to be read: each turn reads all that is there.
        for (let turn = 0; turn < 3; turn++) await new Promise(setImmediate)
        close(toLost(target, event.type === 'close' ? 'nobody listens there' : 'the connection has ended'))
      } else if (event.type.startsWith('handshake:error')) close(toLost(target, refusedBy(event.type)))
    }
  }
  const listen = async (): Promise<void> => {
    while (!life.signal.aborted) {
      const answer = readAnswer(await dealer.receive())
      if (answer === null) continue
      if (answer.id === '') {
        // It will have nothing of ours, whatever it is.
        close(
          new BrokerError(
            'config',
            `${target.address} is not for consumer ${target.consumer}: ${answer.refused}`,
          ),
        )
      } else onAnswer(answer.id, answer.refused)
    }
  }
  const ended = (error: unknown): void => close(toLost(target, error))
  void follow().catch(ended)
  void listen().catch(ended)
  return {
    lost: life.signal,
    get cut() {
      return cut
    },
    ready,
    send: async (frames) => {
      try {
        await dealer.send([...frames])
      } catch (error) {
        ended(error)
      }
    },
    close,
  }
}

const refusedBy = (event: string): string =>
  event === 'handshake:error:auth'
    ? 'it does not let in this key (allow of its curve)'
    : 'it speaks another protocol, or encrypts where this end does not'
