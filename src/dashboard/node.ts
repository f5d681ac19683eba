import type { IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

/** What Express adds to a request of Node's. */
interface Mounted extends IncomingMessage {
  readonly originalUrl?: string
  /** Where it is mounted. */
  readonly baseUrl?: string
  /** What a parser has read of the body before us. */
  readonly body?: unknown
}

export type Listener = (req: IncomingMessage, res: ServerResponse) => void

/** A listener for node:http, and for what is built on it, around a function that answers requests of the Fetch API. */
export const listenerOf =
  (answer: (request: Request, mountedAt: string | undefined) => Promise<Response>): Listener =>
  (req, res) => {
    void respond(req, res, answer).catch(() => {
      // The browser has left in the middle, or the answer could not be made: nothing more can be said to it.
      res.destroy()
    })
  }

async function respond(
  req: Mounted,
  res: ServerResponse,
  answer: (request: Request, mountedAt: string | undefined) => Promise<Response>,
): Promise<void> {
  const leaving = new AbortController()
  res.once('close', () => leaving.abort())
  const request = toRequest(req, leaving.signal)
  if (request === null) {
    res.writeHead(400).end()
    return
  }
  const response = await answer(request, req.baseUrl)
  res.writeHead(response.status, Object.fromEntries(response.headers))
  if (response.body === null || req.method === 'HEAD') {
    res.end()
    return
  }
  res.flushHeaders()
  await pipeline(Readable.fromWeb(response.body), res)
}

function toRequest(req: Mounted, signal: AbortSignal): Request | null {
  const isEncrypted = 'encrypted' in req.socket && req.socket.encrypted === true
  const host = req.headers.host ?? req.headers[':authority'] ?? 'localhost'
  const url = `http${isEncrypted ? 's' : ''}://${String(host)}${req.originalUrl ?? req.url ?? '/'}`
  const method = req.method ?? 'GET'
  if (!URL.canParse(url)) return null
  const headers = new Headers()
  for (const [name, value] of Object.entries(req.headers)) {
    if (name.startsWith(':') || value === undefined) continue
    for (const each of [value].flat()) headers.append(name, each)
  }
  const hasBody = method !== 'GET' && method !== 'HEAD'
  return new Request(url, {
    method,
    headers,
    signal,
    ...(hasBody ? { body: bodyOf(req), duplex: 'half' } : {}),
  })
}

/** What is still to be read, or what was read already, as `express.urlencoded()` leaves it. */
function bodyOf(req: Mounted): ReadableStream<Uint8Array> | string {
  if (!req.readableEnded || typeof req.body !== 'object' || req.body === null) return Readable.toWeb(req)
  return new URLSearchParams(
    Object.entries(req.body).flatMap(([name, value]: [string, unknown]) =>
      [value].flat().map((each): [string, string] => [name, typeof each === 'string' ? each : '']),
    ),
  ).toString()
}
