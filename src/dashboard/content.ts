import { printable } from '../base/printable.ts'
import { jsonContentType } from '../message/message.ts'
import { forJson } from '../operate/letter.ts'
import type { ShownMessage } from './options.ts'
import type { Context, Download } from './view.ts'

/** What the application lets this viewer see of a payload; null if nothing. */
export async function payloadFor(
  { options, viewer }: Context,
  message: ShownMessage,
): Promise<string | null> {
  if (options.showPayload === undefined) return null
  const shown: unknown = await options.showPayload(message, viewer)
  return typeof shown === 'string' ? shown : null
}

interface Exported {
  readonly id: string
  readonly consumer: string | null
  readonly topic: string
  readonly key: string | null
  readonly contentType?: string | undefined
  readonly headers: Readonly<Record<string, string>>
  readonly payload?: string | Uint8Array
}

/**
 * Messages as a file of JSON, one a line, read as fast as the browser takes them. Payloads are in it as the application lets this viewer see
 * them, and without `showPayload` none is.
 */
export function exportOf(context: Context, name: string, messages: AsyncIterable<Exported>): Download {
  const day = context.now.toISOString().slice(0, 10)
  return {
    file: `${name}-${day}.jsonl`,
    type: 'application/x-ndjson; charset=utf-8',
    body: ReadableStream.from(linesOf(context, messages)),
  }
}

async function* linesOf(context: Context, messages: AsyncIterable<Exported>): AsyncGenerator<Uint8Array> {
  const bytes = new TextEncoder()
  for await (const { payload: stored, ...message } of messages) {
    const contentType = message.contentType ?? jsonContentType
    const payload =
      stored === undefined ? null : await payloadFor(context, { ...message, contentType, payload: stored })
    const line = forJson({ ...message, ...(payload === null ? {} : { payload }) })
    yield bytes.encode(`${printable(JSON.stringify(line))}\n`)
  }
}
