import type { Server } from 'node:http'
import type { Socket } from 'node:net'

/**
 * Keeps a server within so many connections: one more ends the oldest that waits for a request. A hundred sockets that
 * send half a request, or nothing, would otherwise keep the probes of an orchestrator out until they are timed out, again
 * and again, and a healthy process would be killed for it. Whoever opens `max` connections faster than a probe sends its
 * request still gets in its way: bind to an address that strangers do not reach.
 */
export function endOldest(server: Server, max: number): void {
  /** Oldest first: a set keeps the order in which it was filled. */
  const waiting = new Set<Socket>()
  const answered = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    waiting.add(socket)
    socket.once('close', () => {
      waiting.delete(socket)
      answered.delete(socket)
    })
    if (waiting.size + answered.size <= max) return
    const [oldest] = waiting.size > 1 ? waiting : answered
    ;(oldest ?? socket).destroy()
  })
  server.on('request', ({ socket }, response) => {
    waiting.delete(socket)
    answered.add(socket)
    response.once('close', () => {
      answered.delete(socket)
      if (!socket.destroyed) waiting.add(socket)
    })
  })
}
