import { answer } from './headers.ts'
import type { Context, View } from './view.ts'
import type { Poller } from './poller.ts'

/** Proxies end connections on which nothing comes for a minute or so. */
const beatMs = 20_000

/**
 * A stream of what has changed on a page, after each poll that changed it. It ends when the browser leaves, or the dashboard
 * is closed.
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
      const forget = poller.observe(tell)
      const beat = setInterval(() => send(': here\n\n'), beatMs).unref()
      end = () => {
        end = () => undefined
        release()
        forget()
        clearInterval(beat)
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
