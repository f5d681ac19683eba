import {
  context,
  defaultTextMapGetter,
  defaultTextMapSetter,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
  type Attributes,
  type Context,
  type MeterProvider,
  type Span,
  type TracerProvider,
} from '@opentelemetry/api'
import { codeOf, describeError, warn } from '../base/errors.ts'
import { printableLabel } from '../base/printable.ts'
import type { Operation, Telemetry, Trace, TracedMessage } from '../base/telemetry.ts'
import { refuseUnknown } from '../base/options.ts'
import { version } from '../base/package.ts'
import { otelMeters } from './opentelemetry/meters.ts'

export { observeDatabase, type ObserveOptions } from './opentelemetry/gauges.ts'

export interface OpenTelemetryOptions {
  /** @default the global one, as your SDK registers it */
  readonly tracerProvider?: TracerProvider | undefined
  /** @default the global one, as your SDK registers it */
  readonly meterProvider?: MeterProvider | undefined
}

const attribute = {
  system: 'messaging.system',
  operation: 'messaging.operation.name',
  type: 'messaging.operation.type',
  topic: 'messaging.destination.name',
  id: 'messaging.message.id',
  bytes: 'messaging.message.body.size',
  count: 'messaging.batch.message_count',
  consumer: 'messaging.consumer.group.name',
  worker: 'messaging.client.id',
  error: 'error.type',
} as const

/** Types and kinds of spans as the messaging conventions have them. */
const conventions = {
  publish: { type: 'create', kind: SpanKind.PRODUCER },
  send: { type: 'send', kind: SpanKind.CLIENT },
  receive: { type: 'receive', kind: SpanKind.CLIENT },
  handle: { type: 'process', kind: SpanKind.CONSUMER },
} as const

/**
 * Traces and metrics for OpenTelemetry: give what it returns to outboxes and workers as `telemetry`.
 *
 * Each message's way is one trace: publish, send, receive, handle, each the child of the one before, whatever process
 * it happens in. The context travels in the message's headers, in the form of the propagator that your SDK has
 * registered (W3C `traceparent` unless you chose another). A batch handler has one span, with a link to each message's
 * trace. Spans and metrics follow the semantic conventions for messaging, and hold no payload, no key and no header.
 *
 * Needs `npm install @opentelemetry/api`, and an SDK that is registered before anything is published.
 * @throws OptionError
 */
export function openTelemetry(options: OpenTelemetryOptions = {}): Telemetry {
  refuseUnknown('openTelemetry', options, ['tracerProvider', 'meterProvider'])
  const tracer = (options.tracerProvider ?? trace).getTracer('twinbox', version)
  let checked = false
  return {
    onEvent: otelMeters(options.meterProvider),
    begin(operation, messages) {
      // Not at creation: the SDK may be registered later.
      if (!checked && propagation.fields().length === 0) {
        warn(
          'No OpenTelemetry propagator is registered, so a trace ends where a message leaves the process. NodeSDK registers one; without it, call propagation.setGlobalPropagator.',
        )
      }
      checked = true
      const { type, kind } = conventions[operation.name]
      const start = (
        parent: Context,
        about: Attributes,
        { topic, consumer }: TracedMessage,
        links: readonly Context[],
      ): Span =>
        tracer.startSpan(
          `${operation.name} ${printableLabel(topic)}`,
          {
            kind,
            attributes: {
              ...common(operation, type, messages.length),
              ...about,
              [attribute.topic]: printableLabel(topic),
              ...(consumer === undefined ? {} : { [attribute.consumer]: printableLabel(consumer) }),
            },
            links: links.flatMap((linked) => {
              const spanContext = trace.getSpanContext(linked)
              return spanContext === undefined ? [] : [{ context: spanContext }]
            }),
          },
          parent,
        )
      if (operation.name === 'handle' && messages.length > 1) {
        return together(start(ROOT_CONTEXT, {}, messages[0]!, messages.map(contextOf)), messages)
      }
      return oneByOne(
        messages.map((message) => {
          const origin = contextOf(message)
          // A publish belongs to what publishes, unless the message says where it comes from.
          const parent = operation.name === 'publish' && !hasSpan(origin) ? context.active() : origin
          const about = { [attribute.id]: message.id, [attribute.bytes]: message.bytes }
          return trace.setSpan(parent, start(parent, about, message, []))
        }),
      )
    },
  }
}

function common(operation: Operation, type: string, count: number): Attributes {
  return {
    [attribute.system]: operation.system,
    [attribute.operation]: operation.name,
    [attribute.type]: type,
    ...(count > 1 ? { [attribute.count]: count } : {}),
    ...(operation.workerId === null ? {} : { [attribute.worker]: String(operation.workerId) }),
  }
}

const contextOf = ({ headers }: TracedMessage): Context =>
  headers === null ? ROOT_CONTEXT : propagation.extract(ROOT_CONTEXT, headers, defaultTextMapGetter)

const hasSpan = (candidate: Context): boolean => trace.getSpanContext(candidate) !== undefined

/** A span for each message, in its own trace. */
function oneByOne(contexts: readonly Context[]): Trace {
  return {
    carried: contexts.map((each) => {
      const carrier: Record<string, string> = {}
      propagation.inject(each, carrier, defaultTextMapSetter)
      return carrier
    }),
    run: (work) => context.with(contexts[0] ?? context.active(), work),
    end(failureOf) {
      for (const [index, each] of contexts.entries()) finish(trace.getSpan(each)!, failureOf?.(index))
    },
  }
}

/** One span for all: what a batch handler does cannot be told apart by message. */
function together(span: Span, messages: readonly TracedMessage[]): Trace {
  return {
    carried: [],
    run: (work) => context.with(trace.setSpan(ROOT_CONTEXT, span), work),
    end(failureOf) {
      const failure = messages.map((_, index) => failureOf?.(index)).find((found) => found !== undefined)
      finish(span, failure)
    },
  }
}

function finish(span: Span, failure: unknown): void {
  if (failure !== undefined) {
    span.setAttribute(attribute.error, codeOf(failure))
    span.setStatus({ code: SpanStatusCode.ERROR, message: describeError(failure) })
  }
  span.end()
}
