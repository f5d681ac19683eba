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
export function exportOf(context: Context, name: string, messages: AsyncGenerator<Exported>): Download {
  const bytes = new TextEncoder()
  const day = new Date().toISOString().slice(0, 10)
  return {
    file: `${name}-${day}.jsonl`,
    type: 'application/x-ndjson; charset=utf-8',
    body: new ReadableStream({
      async pull(controller) {
        const { value: message, done } = await messages.next()
        if (done === true) return controller.close()
        const { payload: stored, ...told } = message
        const { contentType = jsonContentType } = message
        const payload =
          stored === undefined ? null : await payloadFor(context, { ...told, contentType, payload: stored })
        const line = forJson({ ...told, ...(payload === null ? {} : { payload }) })
        controller.enqueue(bytes.encode(`${printable(JSON.stringify(line))}\n`))
      },
      async cancel() {
        await messages.return(undefined)
      },
    }),
  }
}
