import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { table } from '../src/terminal/table.ts'
import { createView } from '../proof/stage/view.ts'

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
