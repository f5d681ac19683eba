import { answer } from './headers.ts'
import type { Context, View } from './view.ts'
import type { Poller } from './poller.ts'

/** Proxies end connections on which nothing comes for a minute or so. */
const beatMs = 20_000
/** Who has lost their access sees no more after this: a browser whose stream has ended asks for another, and is asked who it is. */
const streamMs = 300_000

/**
 * A stream of what has changed on a page, after each poll that changed it. It ends when the browser leaves, after five minutes, when
 * the page cannot be drawn, or when the dashboard is closed.
 */
export function stream(poller: Poller, view: View, contextNow: () => Context, signal: AbortSignal): Response {
  const sent = new Map<string, string>()
  const bytes = new TextEncoder()
  let end = (): void => undefined
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      const send = (text: string): void => controller.enqueue(bytes.encode(text))
      const tell = (): void => {
        // A browser that does not read is not written to; the next poll brings what it has missed.
        if ((controller.desiredSize ?? 1) < -queueMax) return
        const drawn = Object.entries(view.live?.(contextNow()) ?? {}).map(
          ([name, part]) => [name, part.toString()] as const,
        )
        const changed = drawn.filter(([name, text]) => sent.get(name) !== text)
        for (const [name, text] of changed) {
          sent.set(name, text)
          send(`event: fragment\ndata: ${JSON.stringify({ name, html: text })}\n\n`)
        }
        send(
          `event: poll\ndata: ${JSON.stringify({ at: poller.latest?.at ?? null, outage: poller.outage?.why ?? null })}\n\n`,
        )
      }
      const release = poller.watch()
      const forget = poller.observe(() => {
        try {
          tell()
        } catch {
          // Thrown into the poll, it would end the poll for all. The browser comes back, and its page says what is wrong.
          leave()
        }
      })
      const beat = setInterval(() => send(': here\n\n'), beatMs).unref()
      const last = setTimeout(() => leave(), streamMs).unref()
      end = () => {
        end = () => undefined
        release()
        forget()
        clearInterval(beat)
        clearTimeout(last)
        signal.removeEventListener('abort', leave)
      }
      const leave = (): void => {
        end()
        controller.close()
      }
      signal.addEventListener('abort', leave)
      if (signal.aborted) leave()
      else tell()
    },
    cancel: () => end(),
  })
  return answer(200, body, { 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
}

/** Chunks that may wait for a slow browser. */
const queueMax = 64
