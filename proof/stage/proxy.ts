import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'

/** Which way bytes go: from the client to the server, or back. */
export type Direction = 'toServer' | 'toClient'

/**
 * A network between a client and a server that breaks on command. It starts out healthy.
 *
 * However broken, it does only what TCP may do: bytes come late or not at all, but never with a gap before them.
 */
export interface Proxy {
  readonly port: number
  /** How many connections clients have open through it, and how many there have been. */
  connections(): { readonly open: number; readonly ever: number }
  /** Resets every open connection. New ones are let through as before. */
  cut(): void
  /** Swallows bytes without a sign, on open connections and new ones: a cable pulled, a firewall that forgets. */
  blackHole(direction?: Direction | 'both'): void
  /** Reads no more, so that the sender's buffers fill up: a peer that hangs. What was held back comes after `heal`. */
  stall(): void
  /** Delivers each byte so much later, give or take a third. In milliseconds. */
  delay(ms: number): void
  /** Cuts what is open, and refuses new connections, as a server that is down does. */
  refuse(): Promise<void>
  /** Healthy again, but for connections of which something was swallowed: they stay silent until they are closed. */
  heal(): Promise<void>
  /**
   * Once: cuts every connection when these bytes come along, and resolves then. With `deliver` they still arrive, and
   * only the answer is lost; without, they do not.
   */
  cutWhenSeen(
    pattern: string | Uint8Array,
    options?: { readonly direction?: Direction; readonly deliver?: boolean },
  ): Promise<void>
  /** Resolves when the next connection has been made through it. */
  nextConnection(): Promise<void>
  close(): Promise<void>
}

interface Connection {
  /** Bytes of it were swallowed. Were others let through after them, its ends would talk past each other for ever. */
  broken: boolean
}

interface Trap {
  readonly pattern: Buffer
  readonly direction: Direction
  readonly deliver: boolean
  readonly sprung: () => void
}

export async function startProxy(target: { readonly host: string; readonly port: number }): Promise<Proxy> {
  const sockets = new Set<Socket>()
  const clients = new Set<Socket>()
  const swallowing = new Set<Direction>()
  /** Ends of connections that the other side could not be told of. */
  const unsaid: (() => void)[] = []
  let stalled = false
  let delayMs = 0
  const arrivals = new Set<() => void>()
  let trap: Trap | null = null
  let ever = 0

  const cut = (): void => {
    for (const socket of sockets) socket.resetAndDestroy()
  }

  const keep = (socket: Socket, peer: Socket): void => {
    sockets.add(socket)
    socket.setNoDelay(true)
    socket.on('error', () => {})
    socket.on('close', () => {
      sockets.delete(socket)
      peer.destroy()
    })
  }

  const pass = (connection: Connection, from: Socket, to: Socket, direction: Direction): void => {
    // The pattern may lie across two chunks.
    let tail = Buffer.alloc(0)
    // Those on their way. A timer delivers the oldest, whichever it was set for: this network is slow, but it keeps order.
    const late: Buffer[] = []
    let lastDue = 0
    const deliver = (chunk: Buffer): void => {
      if (!to.write(chunk)) {
        from.pause()
        to.once('drain', () => stalled || from.resume())
      }
    }
    from.on('data', (chunk: Buffer) => {
      connection.broken ||= swallowing.has(direction)
      if (connection.broken) return
      if (trap?.direction === direction) {
        const { pattern, deliver: arrives, sprung } = trap
        const seen = Buffer.concat([tail, chunk])
        tail = seen.subarray(Math.max(0, seen.length - pattern.length + 1))
        if (seen.includes(pattern)) {
          trap = null
          // `end` flushes what it is given before it closes; `cut` would overtake it.
          if (arrives) to.write(chunk, () => cut())
          else cut()
          sprung()
          return
        }
      }
      const now = performance.now()
      if (delayMs === 0 && late.length === 0) return deliver(chunk)
      lastDue = Math.max(lastDue, now + delayMs * (2 / 3 + (Math.random() * 2) / 3))
      late.push(chunk)
      setTimeout(() => deliver(late.shift()!), lastDue - now)
    })
    if (stalled) from.pause()
    // A half-close is passed on; if the cable is out, then when it is mended, as TCP sends it again. Or else a transaction
    // whose client has gone would stay open for ever, where in a real network keepalives end it.
    from.on('end', () => {
      if (swallowing.has(direction)) unsaid.push(() => to.end())
      else if (late.length > 0) setTimeout(() => to.end(), lastDue - performance.now() + 5)
      else to.end()
    })
  }

  const server: Server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = connect({ ...target, allowHalfOpen: true })
    ever++
    clients.add(client)
    client.on('end', () => clients.delete(client)).on('close', () => clients.delete(client))
    keep(client, upstream)
    keep(upstream, client)
    const connection = { broken: false }
    pass(connection, client, upstream, 'toServer')
    pass(connection, upstream, client, 'toClient')
    for (const arrival of arrivals) arrival()
    arrivals.clear()
  })
  const listen = async (port: number): Promise<void> => {
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
  }
  const stopListening = async (): Promise<void> => {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    cut()
    await closed
  }
  await listen(0)
  const port = portOf(server)

  return {
    port,
    connections: () => ({ open: clients.size, ever }),
    cut,
    blackHole: (direction = 'both') => {
      if (direction !== 'toClient') swallowing.add('toServer')
      if (direction !== 'toServer') swallowing.add('toClient')
    },
    stall: () => {
      stalled = true
      for (const socket of sockets) socket.pause()
    },
    delay: (ms) => {
      delayMs = ms
    },
    refuse: stopListening,
    heal: async () => {
      swallowing.clear()
      for (const say of unsaid.splice(0)) say()
      delayMs = 0
      trap = null
      stalled = false
      for (const socket of sockets) socket.resume()
      if (!server.listening) await listen(port)
    },
    cutWhenSeen: (pattern, { direction = 'toServer', deliver = false } = {}) =>
      new Promise((resolve) => {
        trap = { pattern: Buffer.from(pattern), direction, deliver, sprung: resolve }
      }),
    nextConnection: () => new Promise((resolve) => arrivals.add(resolve)),
    close: stopListening,
  }
}

export function portOf(server: Server): number {
  const address = server.address()
  if (address === null || typeof address === 'string')
    throw new Error('The server does not listen on a port.')
  return address.port
}
