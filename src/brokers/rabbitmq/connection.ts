import { EventEmitter } from 'node:events'
import { Duplex } from 'node:stream'
import type * as Amqplib from 'amqplib'
import type { ChannelModel } from 'amqplib'
import { describeError, warn } from '../../base/errors.ts'
import { missingPeer } from '../peer.ts'
import { toBrokerError } from './errors.ts'
import { guardFrames } from './frames.ts'
import type { Settings } from './options.ts'
import { keepSecret } from './secret.ts'
import { atMost, within } from '../../base/waiting.ts'

/** A connection that is watched: it says when it is lost or blocked, and no event of it can crash the process. */
export interface Link {
  readonly model: ChannelModel
  /** Resolves when the connection is gone. Never rejects. */
  readonly lost: Promise<void>
  /** What broke the connection; null while it is well, and if it was closed in good order. */
  failure(): Error | null
  /** Why the server does not read from us now, a memory or disk alarm; null if it does. */
  blockedBy(): string | null
  /** Told when it is blocked or unblocked. Call what it returns to stop listening. */
  onBlockedChange(listener: () => void): () => void
  /** Idempotent. Does not wait for a server that no longer answers. */
  close(): Promise<void>
}

const closeTimeoutMs = 2000

/**
 * @param load in place of the library
 * @throws BrokerError if it is not installed
 */
export async function loadAmqplib(load?: () => Promise<typeof Amqplib>): Promise<typeof Amqplib> {
  try {
    return load === undefined ? await import('amqplib') : await load()
  } catch (cause) {
    throw missingPeer('amqplib', cause)
  }
}

/** Connects, once. @throws BrokerError, also when the signal aborts before there is a connection. */
export async function openLink(settings: Settings, purpose: string, signal: AbortSignal): Promise<Link> {
  const { connect } = await loadAmqplib()
  const open = async (): Promise<Link> => {
    const target = await settings.target()
    signal.throwIfAborted()
    const model = await connect(target.url, {
      noDelay: true,
      keepAlive: true,
      timeout: settings.sendTimeoutMs,
      ...settings.socket,
      clientProperties: { connection_name: `twinbox ${purpose}`, ...settings.socket.clientProperties },
    })
    const link = watch(model)
    if (settings.renewMs !== null) void keepSecret(link, settings, target)
    return link
  }
  try {
    // A connection that comes up after all must not stay behind, unused and holding the process open.
    return await within(signal, open(), (late) => late.close())
  } catch (error) {
    throw toBrokerError('Could not connect to RabbitMQ', error)
  }
}

function watch(model: ChannelModel): Link {
  guardFrames(model)
  let blockedBy: string | null = null
  let gone = false
  let failure: Error | null = null
  const blockedListeners = new Set<() => void>()
  const setBlocked = (reason: string | null): void => {
    blockedBy = reason
    for (const listener of blockedListeners) listener()
  }
  const lost = new Promise<void>((resolve) => {
    model.on('close', () => {
      gone = true
      resolve()
    })
  })
  model.on('error', (error) => {
    failure = error
  })
  model.on('blocked', (reason) => setBlocked(reason))
  model.on('unblocked', () => setBlocked(null))
  swallowHandlerErrors(model, model.connection)

  const close = async (): Promise<void> => {
    if (gone) return
    // amqplib forgets to settle this when the connection breaks meanwhile.
    await atMost(closeTimeoutMs, Promise.race([model.close(), lost]))
    // The other end of a half-open connection never confirms the close. amqplib would wait for its heartbeat to
    // fail, and the process could not exit for that long.
    if (!gone) letGoOfSocket(model, new Error('RabbitMQ did not confirm that the connection is closed'))
  }

  return {
    model,
    lost,
    failure: () => failure,
    blockedBy: () => blockedBy,
    onBlockedChange: (listener) => {
      blockedListeners.add(listener)
      return () => blockedListeners.delete(listener)
    },
    close,
  }
}

/** Without a listener for it, an error thrown by a listener of ours would end the connection or the process. */
export function swallowHandlerErrors(...emitters: readonly object[]): void {
  for (const emitter of emitters) {
    if (!(emitter instanceof EventEmitter)) continue
    emitter.on('handler-error', (error: unknown, event: unknown) => {
      warn(`A listener of "${String(event)}" threw: ${describeError(error)}`)
    })
  }
}

function letGoOfSocket({ connection }: ChannelModel, reason: Error): void {
  // Not in amqplib's types, and there is no other way.
  if ('stream' in connection && connection.stream instanceof Duplex) connection.stream.destroy(reason)
}
