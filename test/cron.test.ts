import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Ticks } from '../src/upkeep/cron.ts'

const minuteMs = 60_000
const dayMs = 24 * 60 * minuteMs

/** Five days, in UTC, around a change of the clock. */
const changes = [
  ['Europe/Berlin', '2026-03-27'],
  ['Europe/Berlin', '2026-10-23'],
  ['America/New_York', '2026-03-06'],
  ['America/New_York', '2026-10-30'],
  ['Australia/Lord_Howe', '2026-04-03'], // half an hour
  ['Australia/Lord_Howe', '2026-10-02'],
  ['Antarctica/Troll', '2026-03-27'], // two hours
  ['Antarctica/Troll', '2026-10-23'],
  ['Africa/Cairo', '2026-04-22'], // at midnight
  ['Africa/Cairo', '2026-10-28'],
  ['America/Sao_Paulo', '2018-11-02'],
  ['America/Havana', '2026-10-30'],
  ['Asia/Kolkata', '2026-03-27'],
] as const

interface Minute {
  readonly at: number
  /** What a clock on the wall shows: `2026-03-29 02:30`. */
  readonly shown: string
}

/** What the clocks of a zone show, minute by minute. Nothing of the code under test is asked. */
const walls = new Map<string, readonly Minute[]>()
function wallOf(timeZone: string, from: string): readonly Minute[] {
  const known = walls.get(`${timeZone} ${from}`)
  if (known !== undefined) return known
  const parts = {
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
  } as const
  const format = new Intl.DateTimeFormat('sv-SE', { timeZone, hourCycle: 'h23', ...parts })
  const start = Date.parse(`${from}T00:00Z`)
  const wall = Array.from({ length: (5 * dayMs) / minuteMs }, (_, n) => {
    const at = start + n * minuteMs
    return { at, shown: format.format(at) }
  })
  walls.set(`${timeZone} ${from}`, wall)
  return wall
}

/** The promise of docs/publishing.md: a time is taken as soon as the clock has reached it, or has gone past it. Each moment once. */
function promised(
  wall: readonly Minute[],
  hours: ReadonlySet<number>,
  minutes: ReadonlySet<number>,
  days: ReadonlySet<number>,
): string[] {
  // The first and the last day are not seen whole.
  const dates = [...new Set(wall.map(({ shown }) => shown.slice(0, 10)))].slice(1, -1)
  const times = dates
    .filter((date) => days.has(new Date(`${date}T00:00Z`).getUTCDay()))
    .flatMap((date) =>
      [...hours].flatMap((hour) =>
        [...minutes].map(
          (minute) => `${date} ${String(hour).padStart(2, '0')}:${String(minute).padStart(2, '0')}`,
        ),
      ),
    )
  const moments = times.map((time) => wall.find(({ shown }) => shown >= time)!.at)
  return [...new Set(moments)].toSorted((a, b) => a - b).map((at) => new Date(at).toISOString())
}

function ticksOf(cron: string, timeZone: string, from: string): string[] {
  const wall = wallOf(timeZone, from)
  const dates = [...new Set(wall.map(({ shown }) => shown.slice(0, 10)))].slice(1, -1)
  const inside = wall.filter(({ shown }) => dates.includes(shown.slice(0, 10)))
  const ticks = new Ticks(cron, timeZone)
  const found: string[] = []
  for (let at: Date | null = new Date(inside[0]!.at - 1); ;) {
    at = ticks.next(at)
    if (at === null || at.getTime() > inside.at(-1)!.at) return found
    found.push(at.toISOString())
  }
}

/** A field of one value, a list, a range or both: the text, and what it names. */
const field = (max: number): fc.Arbitrary<{ text: string; values: ReadonlySet<number> }> => {
  const item = fc.oneof(
    { weight: 3, arbitrary: fc.nat(max).map((value) => [value, value] as const) },
    fc.tuple(fc.nat(max), fc.nat(5)).map(([first, more]) => [first, Math.min(max, first + more)] as const),
  )
  return fc.array(item, { minLength: 1, maxLength: 3 }).map((items) => ({
    text: items.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(','),
    values: new Set(
      items.flatMap(([first, last]) => Array.from({ length: last - first + 1 }, (_, n) => first + n)),
    ),
  }))
}

test('times of day, in lists and ranges too, keep the promise in every zone where the clock changes', () => {
  // Mostly the hours in which clocks change.
  const hours = fc.oneof({ weight: 3, arbitrary: field(4) }, field(23))
  const everyDay = { text: '*', values: new Set([0, 1, 2, 3, 4, 5, 6]) }
  const days = fc.oneof({ weight: 3, arbitrary: fc.constant(everyDay) }, field(6))
  fc.assert(
    fc.property(
      fc.constantFrom(...changes),
      field(59),
      hours,
      days,
      fc.boolean(),
      fc.double({ min: 0, max: 0.999, noNaN: true }),
      (change, minute, hour, day, seconds, at) => {
        const [timeZone, from] = change
        const cron = `${seconds ? '0 ' : ''}${minute.text} ${hour.text} * * ${day.text}`
        const expected = promised(wallOf(timeZone, from), hour.values, minute.values, day.values)
        expect([cron, ...ticksOf(cron, timeZone, from)]).toEqual([cron, ...expected])
        // What was missed is caught up with the last of them, wherever one stands.
        const last = expected[Math.floor(at * expected.length)]
        if (last === undefined) return
        const now = new Date(Date.parse(last) + 2 * minuteMs)
        const { ticks } = new Ticks(cron, timeZone).due(new Date(expected[0]!), now, 'one')
        const missed = expected.filter((tick) => Date.parse(tick) <= now.getTime()).at(-1)
        expect([cron, ...ticks.map((tick) => tick.toISOString())]).toEqual([cron, missed])
      },
    ),
    { numRuns: 150 },
  )
})
