import { once } from 'node:events'
import { createServer } from 'node:http'
import { context, propagation } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { BasicTracerProvider, SimpleSpanProcessor, type SpanExporter } from '@opentelemetry/sdk-trace-base'
import { portOf } from '../../proof/stage/proxy.ts'

/** What a user's SDK does at its start: context, propagator, and where spans go. */
export function startSdk(service: string, exporter: SpanExporter): BasicTracerProvider {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  propagation.setGlobalPropagator(new W3CTraceContextPropagator())
  return new BasicTracerProvider({
    resource: resourceFromAttributes({ 'service.name': service }),
    spanProcessors: [new SimpleSpanProcessor(exporter)],
  })
}

export const otlpExporter = (url: string): SpanExporter => new OTLPTraceExporter({ url })

interface OtlpValue {
  readonly stringValue?: string
  readonly intValue?: string | number
}

interface OtlpSpan {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly name: string
  readonly kind: number
  readonly attributes: readonly { readonly key: string; readonly value: OtlpValue }[]
  readonly links?: readonly { readonly traceId: string; readonly spanId: string }[]
  readonly status: { readonly code?: number; readonly message?: string }
}

/** A span as the collector got it. */
export interface SeenSpan extends Omit<OtlpSpan, 'attributes'> {
  readonly service: string
  readonly attributes: Readonly<Record<string, string | number | undefined>>
}

interface Export {
  readonly resourceSpans: readonly {
    readonly resource: Pick<OtlpSpan, 'attributes'>
    readonly scopeSpans: readonly { readonly spans: readonly OtlpSpan[] }[]
  }[]
}

/** What an OpenTelemetry collector does at its front door: takes OTLP over HTTP as JSON. */
export interface Collector {
  readonly url: string
  readonly spans: SeenSpan[]
  /** Every request as it came. */
  readonly bodies: string[]
  /** Resolves when this many spans that match have come. */
  until(matches: (span: SeenSpan) => boolean, count?: number): Promise<SeenSpan[]>
  stop(): Promise<void>
}

export async function startCollector(): Promise<Collector> {
  const spans: SeenSpan[] = []
  const bodies: string[] = []
  const waiting = new Set<() => void>()
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks).toString()
      bodies.push(body)
      if (request.url === '/v1/traces') spans.push(...read(JSON.parse(body) as Export))
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
      for (const look of waiting) look()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${portOf(server)}/v1/traces`,
    spans,
    bodies,
    until: (matches, count = 1) =>
      new Promise((resolve) => {
        const look = (): void => {
          const found = spans.filter(matches)
          if (found.length < count) return
          waiting.delete(look)
          resolve(found)
        }
        waiting.add(look)
        look()
      }),
    async stop() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

function read({ resourceSpans }: Export): SeenSpan[] {
  const plain = (attributes: OtlpSpan['attributes']): SeenSpan['attributes'] =>
    Object.fromEntries(
      attributes.map(({ key, value }) => [
        key,
        value.stringValue ?? (value.intValue === undefined ? undefined : Number(value.intValue)),
      ]),
    )
  return resourceSpans.flatMap(({ resource, scopeSpans }) => {
    const service = String(plain(resource.attributes)['service.name'])
    return scopeSpans.flatMap(({ spans }) =>
      spans.map((span) => ({ ...span, service, attributes: plain(span.attributes) })),
    )
  })
}
