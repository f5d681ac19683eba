import { inspect } from 'node:util'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { describeError } from '../src/base/errors.ts'
import { emitter } from '../src/base/events.ts'
import { redact } from '../src/base/printable.ts'
import { BrokerError, logEvents, type LogLevel, type TwinboxEvent } from '../src/index.ts'

interface Line {
  readonly level: LogLevel
  readonly facts: object
  readonly text: string
}

function logged(event: object, options?: { stacks?: boolean }): Line {
  const lines: Line[] = []
  const to = (level: LogLevel) => (facts: object, text: string) => void lines.push({ level, facts, text })
  const logger = { debug: to('debug'), info: to('info'), warn: to('warn'), error: to('error') }
  const common = { kind: 'claimer', consumer: 'billing', workerId: 7 } as const
  logEvents(logger, options)({ ...common, ...event } as TwinboxEvent)
  expect(lines).toHaveLength(1)
  return lines[0]!
}

describe('logEvents', () => {
  test.each([
    { event: { type: 'handled', ids: ['1'], topic: 't', attempt: 1, durationMs: 3 }, level: 'debug' },
    { event: { type: 'started' }, level: 'info' },
    { event: { type: 'lease_lost', ids: ['1'], lanes: [], reason: 'late' }, level: 'warn' },
    { event: { type: 'dead_letter', id: '1', topic: 't', attempt: 10 }, level: 'error' },
  ])('tells $event.type at $level, with its facts', ({ event, level }) => {
    const line = logged(event)
    expect(line.level).toBe(level)
    expect(line.facts).toEqual({ kind: 'claimer', consumer: 'billing', workerId: 7, ...event })
    expect(line.text).not.toBe('')
  })

  test('console is a logger', () => {
    expect(() => logEvents(console)).not.toThrow()
  })

  test('an event of a later version is told by its name', () => {
    expect(logged({ type: 'unheard_of' })).toMatchObject({ level: 'info', text: 'unheard_of' })
  })

  test('an error is told by its sentence and code, not by what its driver has put on it', () => {
    const cause = Object.assign(new Error('duplicate key value violates unique constraint "users_email"'), {
      code: '23505',
      detail: 'Key (email)=(canary@example.com) already exists.',
      connection: { password: 'canary' },
    })
    for (const stacks of [false, true]) {
      const { facts, text } = logged(
        {
          type: 'message_failed',
          id: '1',
          topic: 't',
          key: null,
          attempt: 1,
          error: cause,
          foundBy: 'error',
          retryInMs: 5,
        },
        { stacks },
      )
      expect(facts).toMatchObject({ code: '23505' })
      expect(inspect(facts, { depth: 10, showHidden: true }) + text).not.toContain('canary')
    }
  })

  test('passwords of URLs are left out by the same rule whatever stands around them, in linear time', () => {
    const rule = /([a-z][a-z0-9+.-]{0,30}:\/\/[^\s:/@]*):\S*@/gi
    const parts = ['a', '://', ':', '@', '/', ' ', '\n', 'pg', '+', 'ü']
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...parts), { maxLength: 30 }), (texts) => {
        expect(redact(texts.join(''))).toBe(texts.join('').replaceAll(rule, '$1:***@'))
      }),
      { numRuns: 5000 },
    )
    const cost = (text: string): number => {
      const from = process.cpuUsage()
      for (let time = 0; time < 20; time++) redact(text)
      return process.cpuUsage(from).user
    }
    for (const text of ['a://b:', 'a', '://', '@', 'a://']) {
      cost(text.repeat(2000))
      // By the regular expression above it was 400 times as much.
      expect(cost(text.repeat(200_000))).toBeLessThan(20 * Math.max(cost(text.repeat(20_000)), 2000))
    }
  })

  test('a password that is cut off is left out too', () => {
    const text = `${'x'.repeat(1950)} postgres://app:pa@${'s'.repeat(100)}@db1/app`
    expect(describeError(new Error(text))).toMatch(/ postgres:\/\/app:\*\*\*$/)
  })

  test('what commands a terminal or breaks a line is shown by its number', () => {
    const key = 'k\u001b[2J\u0007\u009b\nfake line\u202e'
    expect(logged({ type: 'parked', key, forMs: null }).text).toBe(
      String.raw`the key k\u001b[2J\u0007\u009b\u000afake line\u202e is held back until redriven`,
    )
  })

  test('passwords of URLs are left out, those of causes as well', () => {
    const error = new BrokerError('reconnect', 'Could not connect to amqp://me:p@ss@host/x', {
      cause: new Error('connect postgres://app:hunter2@db:5432/app refused'),
    })
    for (const stacks of [false, true]) {
      const line = logged({ type: 'broker_down', error, retryInMs: 100 }, { stacks })
      expect(JSON.stringify(line)).toContain('amqp://me:***@host/x')
      expect(JSON.stringify(line)).not.toMatch(/p@ss|hunter2/)
    }
  })

  test.each(['The inbox could not be written.', 'The inbox could not be written'])(
    'an error of a broker and its cause are one sentence: %s',
    (said) => {
      const error = new BrokerError('retry', said, { cause: new Error('connect ECONNREFUSED ::1:5432') })
      expect(logged({ type: 'broker_down', error, retryInMs: 100 }).text).toContain(
        'The inbox could not be written: connect ECONNREFUSED ::1:5432',
      )
    },
  )

  test('an error that is its own cause is told', () => {
    const error = new Error('round')
    error.cause = error
    expect(logged({ type: 'trouble', error, doing: 'x' }, { stacks: true }).text).toContain('round')
  })
})

test('events tell times in whole milliseconds, but how long something took with fractions', () => {
  const told: object[] = []
  const common = { kind: 'claimer', consumer: 'billing', workerId: 7 } as const
  const emit = emitter({ onEvent: (event) => void told.push(event) }, () => common)
  emit({ type: 'circuit_closed', topic: 't', pausedMs: 1234.56 })
  emit({ type: 'broker_down', error: new BrokerError('reconnect', 'away'), retryInMs: 49.7 })
  emit({ type: 'parked', key: 'k', forMs: null })
  emit({ type: 'handled', ids: ['1'], topic: 't', attempt: 1, durationMs: 0.25 } as never)
  expect(told).toMatchObject([{ pausedMs: 1235 }, { retryInMs: 50 }, { forMs: null }, { durationMs: 0.25 }])
})
