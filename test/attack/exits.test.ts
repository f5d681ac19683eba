import { runInNewContext } from 'node:vm'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { codeOf, describeError } from '../../src/base/errors.ts'
import { emitter, type TwinboxEvent } from '../../src/base/events.ts'
import { printableLabel, redact } from '../../src/base/printable.ts'
import { errorRecord, framesOf } from '../../src/base/record.ts'
import { begin } from '../../src/base/telemetry.ts'
import { logEvents } from '../../src/index.ts'
import { report, sentence } from '../../src/observe/logging.ts'
import { boundedLabels, measure } from '../../src/observe/metrics.ts'
import { openTelemetry } from '../../src/observe/opentelemetry.ts'
import { short, table } from '../../src/terminal/table.ts'

/** A handler quotes what somebody has sent, and somebody has sent what costs the most or says the worst. */

// eslint-disable-next-line no-control-regex
const raw = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]/
const hostile = 'x\u001b[2J\u001b]52;c;eA==\u0007\u009b31m\u202e\u200f\u2028\r\n    at FORGED LINE'

/** An error that says it in every way that an error can. */
function failing(text: string): Error {
  const cause = Object.assign(new TypeError(text), { code: text, name: text })
  const error = Object.assign(new RangeError(text, { cause }), { code: text, name: text })
  error.stack = `${text}: ${text}\n    at ${text}\n${text}`
  return error
}

const common = { kind: 'claimer', consumer: 'c', workerId: 1 } as const
const failed = (text: string): TwinboxEvent => ({
  ...{ ...common, type: 'message_failed', id: '1', attempt: 1, foundBy: 'error', retryInMs: null },
  ...{ error: failing(text), topic: text, key: text },
})

const lines: string[] = []
/** Of the facts of the last line. */
let fact = ''
const logger = (() => {
  const to = (facts: object, text: string): void => {
    lines.push(text)
    fact = String((facts as { error: unknown }).error)
  }
  return { debug: to, info: to, warn: to, error: to }
})()

function logged(text: string, stacks: boolean): string {
  lines.length = 0
  logEvents(logger, { stacks })(failed(text))
  return `${lines[0]}\n${fact}`
}

const exporter = new InMemorySpanExporter()
const telemetry = openTelemetry({
  tracerProvider: new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }),
})
function spanOf(text: string): string {
  exporter.reset()
  const traced = telemetry.begin({ name: 'handle', system: 'twinbox', workerId: 1 }, [
    { consumer: text, id: '1', topic: text, headers: null, bytes: 1 },
  ])
  traced.end(() => failing(text))
  const [span] = exporter.getFinishedSpans()
  return JSON.stringify([span!.name, span!.attributes, span!.status.message])
}

/** What each way out makes of a text. */
const exits: Readonly<Record<string, (text: string) => string>> = {
  describeError: (text) => describeError(failing(text)),
  'describeError of a text': (text) => describeError(text),
  codeOf: (text) => codeOf(failing(text)),
  'a stored attempt': (text) => errorRecord(failing(text), 1, 1),
  sentence: (text) => sentence(failing(text)),
  'a report with stacks': (text) => report(failing(text), true),
  'a log line': (text) => logged(text, false),
  'a log line with stacks': (text) => logged(text, true),
  'a span': spanOf,
  'a label': (text) => printableLabel(text),
  'labels of a metric': (text) => JSON.stringify(measure(failed(text), boundedLabels())),
  'a cell of a table': (text) => table(['a'], [[text]]),
  'a short reason': (text) => table(['a'], [[short(text)]]),
}

describe.each(Object.keys(exits))('%s', (name) => {
  test('passes on nothing that commands a terminal, and no line that begins with what was sent', () => {
    const text = exits[name]!(hostile)
    expect(raw.exec(text)?.[0].charCodeAt(0)).toBeUndefined()
    // What is stored keeps its line breaks; who shows it does not. Frames are ours, and stand behind four spaces.
    if (!name.startsWith('describeError'))
      expect(text.split('\n').filter((line) => /^( {0,3}| {5,})at FORGED|^\s*FORGED/.test(line))).toEqual([])
  })

  // Of 1 MB it looks at no more than of 100 kB, or at all of it once. What was here before took minutes.
  test('costs no more for 1 MB of anything than ten times what 100 kB cost', () => {
    const cost = (text: string): number => {
      const from = process.cpuUsage()
      for (let time = 0; time < 5; time++) exits[name]!(text)
      return process.cpuUsage(from).user
    }
    for (const part of [
      ...['a://b:', '@@@@', '://://', 'password=password=', 'a://b:c@', 'a://b:c@d ', ' ', '\t', '.', 'a'],
      ...['\n', '\n    at x', '\u001b', '\u001b[2J', '\u202e', '\ud800', '\0', 'é', '字', '"\\', '{"a":'],
    ]) {
      const of = (length: number): string => part.repeat(Math.ceil(length / part.length))
      cost(of(10_000))
      // Below 20 ms in all, the clock of the processor says little.
      const isBounded = (): boolean => cost(of(1_000_000)) < 15 * Math.max(cost(of(100_000)), 20_000)
      // What else runs in this process, such as the garbage of other files being collected, only adds.
      expect([part, isBounded() || isBounded()]).toEqual([part, true])
    }
  })
})

test('a line of a message that looks like a frame is no frame', () => {
  const error = new Error(`x\n    at FORGED LINE (evil.js:1:1)\n    at y`)
  for (const text of [
    JSON.stringify(framesOf(error, 50)),
    errorRecord(error, 1, 1).replace(/"error":"[^"]*"/, ''),
  ])
    expect(text).not.toContain('FORGED')
  expect(framesOf(error, 50)[0]).toMatch(/^ {4}at .*exits\.test\.ts/)
  for (const long of ['\n'.repeat(1_000_000), 'y'.repeat(1_000_000)])
    expect(framesOf(new Error(long), 8)[0]).toMatch(/^ {4}at .*exits\.test\.ts/)
})

test('redaction itself is linear, and leaves a password neither before nor behind a cut', () => {
  for (const text of ['postgres://a:SECRET@h', 'a://b:SECRET@', `${'@'.repeat(50)} a://b:SE@CRET@h`])
    expect(redact(text)).not.toMatch(/SECRET|SE@CRET/)
  for (let before = 1900; before < 2010; before++) {
    const told = describeError(`${'x'.repeat(before)} amqp://me:SECRETSECRET@host/`)
    expect(told).not.toMatch(/SECR/)
  }
})

describe('an observer', () => {
  const warnings: string[] = []
  const rejections: unknown[] = []
  const onWarning = (warning: Error): void => {
    if (/^(An onEvent observer|Telemetry) threw/.test(warning.message)) warnings.push(warning.message)
  }
  const onRejection = (reason: unknown): void => void rejections.push(reason)
  beforeEach(() => {
    warnings.length = 0
    rejections.length = 0
    process.on('warning', onWarning)
    process.on('unhandledRejection', onRejection)
  })
  afterEach(() => {
    process.off('warning', onWarning)
    process.off('unhandledRejection', onRejection)
  })
  const round = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)))

  const bad: readonly (readonly [how: string, observe: () => unknown, warns: boolean])[] = [
    [
      'throws',
      () => {
        throw new Error(hostile)
      },
      true,
    ],
    [
      'throws what cannot be read',
      () => {
        throw new Proxy(new Error('x'), {
          get: () => {
            throw new Error('y')
          },
        })
      },
      true,
    ],
    ['rejects', () => Promise.reject(new Error(hostile)), true],
    ['rejects in another realm', () => runInNewContext('Promise.reject(new Error("x"))'), true],
    ['never settles', () => new Promise(() => {}), false],
    [
      'gives a thenable that throws',
      () => ({
        // eslint-disable-next-line unicorn/no-thenable
        then: () => {
          throw new Error('x')
        },
      }),
      true,
    ],
    [
      'gives what throws when it is looked at',
      () =>
        // eslint-disable-next-line unicorn/no-thenable
        Object.defineProperty({}, 'then', {
          get: () => {
            throw new Error('x')
          },
        }),
      true,
    ],
    [
      'gives a proxy that throws',
      () =>
        new Proxy(
          {},
          {
            has: () => {
              throw new Error('x')
            },
          },
        ),
      true,
    ],
    ['gives null', () => null, false],
  ]
  test.each(bad)('that %s harms neither the work nor the other observer', async (_, observe, warns) => {
    const seen: string[] = []
    const emit = emitter(
      { onEvent: observe, telemetry: { onEvent: ({ type }) => void seen.push(type) } },
      () => common,
    )
    emit({ type: 'started' })
    await round()
    expect(seen).toEqual(['started'])
    expect(rejections).toEqual([])
    expect(warnings.length).toBe(warns ? 1 : 0)
    for (const warning of warnings) expect([raw.exec(warning), warning.includes('\n')]).toEqual([null, false])
  })

  test('that traces may fail anywhere: the work is done once, and what it throws is its own', async () => {
    const throws = (): never => {
      throw new Error(hostile)
    }
    const whole = { carried: [], run: <Result>(work: () => Result) => work(), end: () => {} }
    const operation = { name: 'handle', system: 'x', workerId: 1 } as const
    for (const broken of [
      { ...whole, run: throws },
      { ...whole, end: throws },
    ]) {
      const traced = begin({ begin: () => broken }, operation, () => [])!
      let times = 0
      expect(traced.run(() => ++times)).toBe(1)
      expect(() => traced.run(() => throws())).toThrow(hostile)
      traced.end()
      expect(times).toBe(1)
    }
    expect(begin({ begin: throws }, operation, () => [])).toBeNull()
    await round()
    expect(warnings.length).toBeGreaterThan(2)
    for (const warning of warnings) expect([raw.exec(warning), warning.includes('\n')]).toEqual([null, false])
  })
})
