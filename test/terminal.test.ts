import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import fc from 'fast-check'
import { renderWorkers } from '../src/cli/roster.ts'
import { renderStatus } from '../src/cli/status.ts'
import type { WorkerStatus } from '../src/operate/workers.ts'
import type { BoxStatus, DeadLetterStatus, Status } from '../src/status/status.ts'
import { printableLine } from '../src/base/printable.ts'
import { columns as columnsOf, cut, cutMiddle, fold, unfold } from '../src/terminal/prose.ts'
import { fit, section } from '../src/terminal/section.ts'
import { table } from '../src/terminal/table.ts'
import { createView } from '../proof/stage/view.ts'
import { fuzzSeed } from './support/fuzz.ts'

describe('a table', () => {
  test('has its columns below each other, and nothing behind the last', () => {
    expect(table(['key', 'depth', ''], [])).toBe('key  depth')
    const rows = [
      ['o1', '12345678', ''],
      ['customer', '1', 'late'],
    ]
    expect(table(['key', 'depth', ''], rows).split('\n')).toEqual([
      'key       depth',
      'o1        12345678',
      'customer  1         late',
    ])
    expect(table(['key', 'depth', ''], rows, { numbers: true }).split('\n')).toEqual([
      'key          depth',
      'o1        12345678',
      'customer         1  late',
    ])
  })

  test.each([
    ['Chinese', '订单', 4],
    ['Japanese', 'ﾃｽﾄテスト', 9],
    ['Korean', '주문', 4],
    ['a letter and its accent apart', 'e\u0301e', 2],
    ['Arabic', 'طلب', 3],
    ['a character beyond the first 65,536', '𠮷', 2],
    ['a flag', '🇩🇪', 2],
    ['a family, which is one picture', '👨‍👩‍👧', 2],
    ['what would command the terminal, by its number', '\x1b[2J', 9],
    ['a line break, by its number', 'a\nb', 8],
  ])('gives %s the place that a terminal needs for it', (_, text, columns) => {
    const [, wide, narrow] = table(
      ['key', 'topic'],
      [
        [text, 'x'],
        ['k'.repeat(12), 'y'],
      ],
    ).split('\n')
    expect(narrow).toBe(`${'k'.repeat(12)}  y`)
    expect(wide).toMatch(new RegExp(`[^ ] {${12 - columns + 2}}x$`))
  })
})

/** In any script, with pictures that are made of several characters, and with what would command the terminal. */
const anyName = (maxLength: number): fc.Arbitrary<string> =>
  fc.oneof(
    fc.string({ maxLength }),
    fc.string({ unit: 'grapheme', maxLength }),
    fc.string({ unit: 'binary', maxLength }),
    fc
      .array(fc.constantFrom('订单', '👨‍👩‍👧', '🇩🇪', 'é', '𠮷', 'ﾃ', '…', ' ', '\x1b[2J', 'a'), { maxLength })
      .map((all) => all.join('')),
  )
const width = fc.integer({ min: 40, max: 200 })
const holds = (property: Parameters<typeof fc.assert>[0]): void =>
  void fc.assert(property as never, { seed: fuzzSeed, numRuns: 300 })
const tooWide = (text: string, most: number): string[] =>
  text.split('\n').filter((line) => columnsOf(line) > most)

describe('of whatever is shown', () => {
  test('a text that is cut fits, and only a text that does not fit is cut', () =>
    holds(
      fc.property(anyName(60), fc.integer({ min: 1, max: 80 }), (name, most) => {
        const text = printableLine(name)
        for (const shown of [cut(text, most), cutMiddle(text, most)]) {
          expect(columnsOf(shown)).toBeLessThanOrEqual(most)
          expect(shown === text).toBe(columnsOf(text) <= most)
          expect(shown.isWellFormed()).toBe(text.isWellFormed() || shown.isWellFormed())
        }
      }),
    ))

  test('a table is never too wide, has a line for every row, and says which columns it has left out', () =>
    holds(
      fc.property(
        fc.array(fc.array(anyName(60), { minLength: 6, maxLength: 6 }), { maxLength: 20 }),
        width,
        (rows, most) => {
          const head = ['number', 'topic', 'key', 'age', 'pid', 'reason']
          const numbered = rows.map((row, index) => [
            String(index),
            ...row.slice(1, 3),
            '12.0 s',
            '123456',
            row[5]!,
          ])
          const shown = table(head, numbered, {
            width: most,
            drops: ['pid', 'age'],
            cuts: { topic: 'middle', key: 'middle', reason: 'end' },
          })
          expect(tooWide(shown, most)).toEqual([])
          const [first, ...others] = shown.split('\n')
          const names = first!.trim().split(/ {2,}/)
          expect(names).toEqual(expect.arrayContaining(['number', 'topic', 'key', 'reason']))
          const missing = head.filter((name) => !names.includes(name))
          expect(missing).toEqual([[], ['pid'], ['age', 'pid']][missing.length])
          const note = missing.length === 0 ? [] : [`(no room for ${missing.join(', ')})`]
          expect(others.slice(rows.length)).toEqual(note)
          expect(others.slice(0, rows.length).map((line) => line.split(' ')[0])).toEqual(
            numbered.map(([number]) => number),
          )
          // In a pipe it is whole.
          const whole = table(head, numbered)
          for (const row of rows) expect(whole).toContain(printableLine(row[1]!).trimEnd())
        },
      ),
    ))

  test('what is folded breaks at words, of which none is lost, and no other line begins where its first does', () =>
    holds(
      fc.property(
        fc.array(anyName(12), { maxLength: 40 }),
        fc.constantFrom('', '  ', 'name   ', '      → '),
        width,
        (words, before, most) => {
          const text = before + printableLine(words.join(' '))
          const lines = fold(text, most).split('\n')
          const wordsOf = (some: string): string[] => some.split(' ').filter((word) => word !== '')
          expect(lines.flatMap(wordsOf)).toEqual(wordsOf(text))
          const indent = /^ */.exec(before)![0].length
          for (const line of lines.slice(1)) expect(/^ */.exec(line)![0].length).toBeGreaterThan(indent)
          // A word that is wider by itself stays whole.
          for (const line of lines)
            expect(
              columnsOf(line) <= most ||
                wordsOf(line.slice(line === lines[0] ? before.length : 0)).length <= 1,
            ).toBe(true)
        },
      ),
    ))

  test('sections fit into a screen, keep their headings, and say how many lines are missing', () =>
    holds(
      fc.property(
        fc.array(fc.tuple(fc.nat(30), fc.nat(2)), { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 1, max: 60 }),
        (sizes, height) => {
          const sections = sizes.map(([rows, feet], nr) =>
            section(
              [`head ${nr}`, ...Array.from({ length: rows }, (_, row) => `row ${nr} ${row}`)].join('\n'),
              Array.from({ length: feet }, () => `foot ${nr}`),
            ),
          )
          const lines = fit(sections, height).split('\n')
          expect(lines.length).toBeLessThanOrEqual(height)
          const least = sizes.reduce((sum, [rows, feet]) => sum + 2 + Math.min(rows, 1) + feet, -1)
          if (height < least) return
          for (const [nr, [rows, feet]] of sizes.entries()) {
            const from = lines.indexOf(`head ${nr}`)
            const part = lines.slice(from, [...lines, ''].indexOf('', from))
            const more = Number(/^… (\d+) more lines?$/m.exec(part.join('\n'))?.[1] ?? 0)
            const shown = part.filter((line) => line.startsWith('row')).length
            expect([shown + more, part.filter((line) => line.startsWith('foot')).length]).toEqual([
              rows,
              feet,
            ])
          }
        },
      ),
    ))

  const at = new Date('2026-01-01T12:00:00Z')
  const name = anyName(40)
  const count = fc.record({ count: fc.nat(100_000), more: fc.boolean() })
  const box = fc.record({
    depth: fc.nat(100_000),
    more: fc.boolean(),
    lagMs: fc.option(fc.nat(10 ** 9)),
    topics: fc.array(fc.record({ topic: name, depth: fc.nat(100_000), lagMs: fc.nat(10 ** 9) }), {
      maxLength: 20,
    }),
    topicCount: fc.constant(200_000),
    ...{ deferred: count, parkedKeys: count, parkedMessages: count, deadLetters: count },
  }) satisfies fc.Arbitrary<BoxStatus>
  const worker = fc.record({
    id: fc.integer({ min: 1, max: 99_999 }),
    kind: fc.constantFrom('relay', 'receiver', 'claimer'),
    consumer: fc.option(name),
    host: name,
    pid: fc.nat(4_194_304),
    version: fc.constant('10.11.12'),
    startedAt: fc.constant(at),
    lastBeatMs: fc.nat(10 ** 6),
    beatAt: fc.constant(at),
    alive: fc.boolean(),
    state: fc.constantFrom('alive', 'silent', 'gone', 'died'),
    locked: fc.boolean(),
    session: fc.boolean(),
    endedAt: fc.constantFrom(null, null, at),
    endedBy: fc.constant('heartbeat'),
    lanes: fc.constant([1, 2, 3]),
    lanesTaken: fc.constant([at, at, at]),
    lanesSince: fc.constant(at),
    inFlight: fc.nat(1000),
    topics: fc.constant(null),
    stuck: fc.constant(null),
    brokerDown: fc.constant(null),
  }) satisfies fc.Arbitrary<WorkerStatus>
  const letter = fc.record({
    number: fc.nat(10 ** 6),
    diedAt: fc.constant(at),
    id: fc.uuid(),
    consumer: fc.option(name),
    topic: name,
    key: fc.option(name),
    attempt: fc.nat(30),
    reason: anyName(300),
  }) satisfies fc.Arbitrary<DeadLetterStatus>
  const status = fc.record({
    schema: fc.constant('twinbox'),
    migration: fc.constant(5),
    at: fc.constant(at),
    outbox: box,
    consumers: fc.array(
      fc
        .record({ consumer: name, box, topic: name, reason: name })
        .map(({ consumer, box: of, topic, reason }) => ({
          ...of,
          consumer,
          subscriptions: [],
          unhandled: [{ topic, depth: 5, lagMs: 5, hasHandler: false }],
          paused: [{ topic, reason, error: reason, since: at, probes: 3, probeAt: at }],
        })),
      { maxLength: 4 },
    ),
    workers: fc.array(worker, { maxLength: 12 }),
    deadLetters: fc.array(letter, { maxLength: 20 }),
  }) satisfies fc.Arbitrary<Status>

  test('workers are never too wide; who they are and whether they live is always there, and all are accounted for', () =>
    holds(
      fc.property(
        fc.array(worker, { minLength: 1, maxLength: 30 }),
        fc.boolean(),
        fc.integer({ min: 64, max: 200 }),
        (workers, ended, most) => {
          const shown = fit([renderWorkers(workers, at, { width: most, ended })])
          expect(tooWide(shown, most)).toEqual([])
          const gone = ended ? 0 : workers.filter(({ endedAt }) => endedAt !== null).length
          expect(/^(\d+) ended /m.exec(shown)?.[1] ?? '0').toBe(String(gone))
          const listed = workers.length - gone
          expect(
            shown.split('\n').filter((line) => /^\d+ +(relay|receiver|claimer) /.test(line)),
          ).toHaveLength(listed)
          if (listed > 0) expect(shown).toMatch(/^id +kind +consumer +state .*beat .*in flight/)
        },
      ),
    ))

  test('a status fits into any terminal, and says how many topics it does not show', () =>
    holds(
      fc.property(status, width, fc.integer({ min: 10, max: 60 }), (found, most, height) => {
        const whole = fit(renderStatus(found, most))
        // A name without any space, in a sentence, stays whole.
        expect(tooWide(whole, most).filter((line) => / (?=\S)/.test(line.trim()))).toEqual([])
        expect(fit(renderStatus(found, most), height).split('\n').length).toBeLessThanOrEqual(height)
        const boxes = [found.outbox, ...found.consumers]
        const topics = boxes.flatMap((of) => of.topics).length
        if (topics > 0)
          expect(whole.replaceAll(/\s+/g, ' ')).toContain(
            `; ${200_000 * boxes.length - Math.min(20, topics)}${boxes.some(({ more }) => more) ? '+' : ''} more have`,
          )
      }),
    ))

  test('help as it stands in a program becomes paragraphs, names and examples', () => {
    const text =
      'One line\nand another.\n\nname   what it is\nother  more\n\nExamples:\n  $ twinbox a-command that-is --to be pasted as-it-is'
    const lines = fold(unfold(text), 40, 0).split('\n')
    expect(lines).toEqual([
      'One line and another.',
      '',
      'name   what it is',
      'other  more',
      '',
      'Examples:',
      '  $ twinbox a-command that-is --to be pasted as-it-is',
    ])
  })
})

/** What a terminal shows of what was written to it, as far as a view uses its commands. */
function screenOf(written: string): string[] {
  const lines = ['']
  let row = 0
  // eslint-disable-next-line no-control-regex
  for (const [part] of written.matchAll(/\x1b\[\d*[A-Z]|\n|[^\x1b\n]+/g)) {
    if (part === '\n') lines[++row] ??= ''
    else if (part.endsWith('A') && part.startsWith('\x1b')) row -= parseInt(part.slice(2), 10)
    else if (part === '\x1b[0J') lines.splice(row, Infinity, '')
    else if (part.startsWith('\x1b')) expect.fail(`An unknown command: ${JSON.stringify(part)}`)
    else lines[row] += part
  }
  return lines.slice(0, -1)
}

describe('a view', () => {
  const { isTTY, columns, rows } = process.stderr
  const term = process.env['TERM']
  let written = ''
  beforeEach(() => {
    written = ''
    vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
      written += text.toString()
      return true
    })
    vi.spyOn(performance, 'now').mockImplementation(() => (now += 2000))
    Object.assign(process.stderr, { isTTY: true, columns: 80, rows: 24 })
    process.env['TERM'] = 'xterm'
  })
  let now = 0
  afterEach(() => {
    vi.restoreAllMocks()
    Object.assign(process.stderr, { isTTY, columns, rows })
    if (term === undefined) delete process.env['TERM']
    else process.env['TERM'] = term
  })

  test('draws its bars over the last ones, and what is said meanwhile above them', () => {
    const view = createView()
    view.say('Starting …')
    let workers = ['relay 1   alive']
    view.show(
      8,
      () => workers,
      () => '',
    )
    view.update(4, 2)
    view.say('Killed relay 1.')
    workers = ['relay 1   dead', 'relay 2   alive']
    view.update(8, 5)
    const bars = [
      `published ${'█'.repeat(40)} 8/8`,
      `handled   ${'█'.repeat(25)}${'░'.repeat(15)} 5/8`,
      '  relay 1   dead',
      '  relay 2   alive',
    ]
    expect(screenOf(written)).toEqual(['Starting …', 'Killed relay 1.', ...bars])
    view.end()
    view.say('All is well.')
    expect(screenOf(written)).toEqual(['Starting …', 'Killed relay 1.', ...bars, 'All is well.'])
  })

  test('never lets the terminal break a line or scroll', () => {
    Object.assign(process.stderr, { columns: 20, rows: 5 })
    const view = createView()
    view.show(
      2,
      () => ['订单订单订单订单订单', 'two\nlines', 'the fifth'],
      () => '',
    )
    view.update(1, 1)
    expect(screenOf(written)).toEqual([
      `published ${'█'.repeat(9)}`,
      `handled   ${'█'.repeat(9)}`,
      '  订单订单订单订单',
      '  two\\u000alines',
    ])
  })

  test.each([
    ['without a terminal', false, 'xterm'],
    ['in a terminal that cannot go back', true, 'dumb'],
  ])('%s it says a line now and then, and commands nothing', (_, tty, name) => {
    Object.assign(process.stderr, { isTTY: tty })
    process.env['TERM'] = name
    const view = createView()
    view.show(
      2,
      () => ['a line'],
      () => 'all alive',
    )
    view.update(1, 0)
    view.end()
    expect(written).toBe('published 1/2, handled 0; all alive\n')
  })
})
