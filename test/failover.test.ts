import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { share } from '../src/database/layout.ts'
import {
  dealOut as dealOutBy,
  failoverStrategies,
  readFailover,
  type Assignee,
} from '../src/membership/failover.ts'
import { Abandoned } from '../src/membership/abandoned.ts'
import type { Peer } from '../src/database/sql/worker.ts'
import { Sightings, type Verdict } from '../src/membership/sightings.ts'

const peer = (id: number, changes: Partial<Peer> = {}): Peer => ({
  id,
  host: 'h',
  ended_by: null,
  beat: '1',
  in_flight: 0,
  unlocked: false,
  sign: null,
  reserved: false,
  lane_assignees: null,
  row_assignees: null,
  ...changes,
})

const assignees = fc.uniqueArray(
  fc.record({
    id: fc.integer({ min: 1, max: 99 }),
    host: fc.constantFrom('a', 'b', 'c'),
    inFlight: fc.nat(500),
  }),
  { selector: ({ id }) => id, minLength: 1, maxLength: 8 },
)
const dealOut = (
  failover: unknown,
  dead: { id: number; lanes: readonly number[]; inFlight: number },
  living: readonly Assignee[],
) => dealOutBy(readFailover(failover), { host: 'h', ...dead }, living)
const abandonedLanes = fc.uniqueArray(fc.integer({ min: 0, max: 71 }), { maxLength: 72 })

const counts = (given: readonly (number | null)[]): Map<number, number> => {
  const result = new Map<number, number>()
  for (const id of given) if (id !== null) result.set(id, (result.get(id) ?? 0) + 1)
  return result
}

describe('dealing out', () => {
  const explicit = fc.constantFrom(...failoverStrategies.filter((strategy) => strategy !== 'first-free'))

  test('every lane of the dead one and every part of its rows goes to one of the living, and nothing else', () => {
    fc.assert(
      fc.property(explicit, assignees, abandonedLanes, fc.nat(1000), (strategy, living, lanes, inFlight) => {
        const dealt = dealOut(strategy, { id: 50, lanes, inFlight }, living)!
        const ids = living.map(({ id }) => id)
        expect(dealt.rows).toHaveLength(64)
        expect(dealt.rows.every((id) => ids.includes(id!))).toBe(true)
        for (const lane of lanes) expect(ids).toContain(dealt.lanes[lane])
        expect(dealt.lanes.filter((id) => id !== null)).toHaveLength(lanes.length)
      }),
    )
  })

  test('round-robin: nobody gets two more than another', () => {
    fc.assert(
      fc.property(assignees, abandonedLanes, (living, lanes) => {
        const dealt = dealOut('round-robin', { id: 50, lanes, inFlight: 0 }, living)!
        const given = counts(dealt.lanes)
        const shares = living.map(({ id }) => given.get(id) ?? 0)
        expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(1)
      }),
    )
  })

  test('least-work: who gets something has, before the last of it, no more than anybody else', () => {
    fc.assert(
      fc.property(assignees, abandonedLanes, fc.integer({ min: 1, max: 5000 }), (living, lanes, inFlight) => {
        fc.pre(lanes.length > 0)
        const size = Math.max(inFlight / lanes.length, 1 / lanes.length)
        const given = counts(dealOut('least-work', { id: 50, lanes, inFlight }, living)!.lanes)
        const loads = living.map(({ id, inFlight: at }) => ({
          id,
          load: at + (given.get(id) ?? 0) * size,
        }))
        const least = Math.min(...loads.map(({ load }) => load))
        const before = loads.filter(({ id }) => given.has(id)).map(({ load }) => load - size)
        expect(Math.max(...before)).toBeLessThanOrEqual(least + 1e-6)
      }),
    )
  })

  test('random: each gets about as much, and not always the same', () => {
    const living = [1, 2, 3].map((id) => ({ id, host: 'h', inFlight: 0 }))
    const given = counts(
      Array.from(
        { length: 50 },
        () => dealOut('random', { id: 9, lanes: [], inFlight: 0 }, living)!.rows,
      ).flat(),
    )
    // 3,200 draws at a third: ten standard deviations.
    for (const { id } of living) expect(Math.abs(given.get(id)! - 3200 / 3)).toBeLessThan(270)
  })

  const lanes = Array.from({ length: 72 }, (_, lane) => lane)
  const alive = (...hosts: string[]): Assignee[] =>
    hosts.map((host, index) => ({ id: 10 + index, host, inFlight: 0 }))
  const hostsOf = (living: readonly Assignee[], dead = 50): string[] =>
    dealOut('sticky', { id: dead, lanes, inFlight: 0 }, living)!.lanes.map(
      (id) => living.find((one) => one.id === id)!.host,
    )

  test('sticky: whoever else comes, goes or starts anew, a lane goes to the same host', () => {
    const before = hostsOf(alive('a', 'b', 'c', 'd'))
    for (const host of ['a', 'b', 'c', 'd']) {
      const given = before.filter((other) => other === host).length
      expect(given).toBeGreaterThan(8)
      expect(given).toBeLessThan(30)
    }
    // Other ids, another order, another one that has died.
    const anew = alive('d', 'c', 'b', 'a').map((one) => ({ ...one, id: one.id + 700 }))
    expect(hostsOf(anew, 51)).toEqual(before)
    const fewer = hostsOf(alive('a', 'b', 'd'))
    expect(before.filter((host, lane) => host !== 'c' && fewer[lane] !== host)).toEqual([])
    const more = hostsOf(alive('a', 'b', 'c', 'd', 'e'))
    expect(before.filter((host, lane) => more[lane] !== 'e' && more[lane] !== host)).toEqual([])
  })

  test('sticky: several workers of a host have a share each', () => {
    const { lanes: dealt } = dealOut('sticky', { id: 50, lanes, inFlight: 0 }, alive('a', 'a', 'a'))!
    expect([...counts(dealt).values()].every((count) => count > 10)).toBe(true)
  })

  test('a function chooses for each lane and part, and may leave some to whoever comes first', () => {
    const living = alive('a', 'b')
    const asked: unknown[] = []
    const dealt = dealOut(
      (dead: { lane: number | null; part: number }, given: readonly Assignee[]) => {
        asked.push(dead)
        return dead.lane === null ? given[dead.part % 2] : dead.lane === 3 ? null : given[1]
      },
      { id: 50, lanes: [1, 3], inFlight: 7 },
      living,
    )!
    expect(dealt.lanes).toEqual([null, 11, null, null])
    expect(dealt.rows).toEqual(Array.from({ length: 64 }, (_, part) => 10 + (part % 2)))
    expect(asked[0]).toEqual({ id: 50, host: 'h', inFlight: 7, lane: 1, part: 1 })
    expect(asked).toHaveLength(66)
    expect(dealOut(() => null, { id: 50, lanes: [1], inFlight: 0 }, living)).toBeNull()
  })

  test.each([
    ['gives an id', () => 10],
    ['gives a promise', async (_: unknown, living: readonly Assignee[]) => living[0]],
    ['gives a copy', (_: unknown, living: readonly Assignee[]) => ({ ...living[0] })],
    ['gives nothing', () => undefined],
  ])('a function that %s is told that it may not', (_, decide) => {
    expect(() => dealOut(decide, { id: 50, lanes: [1], inFlight: 0 }, alive('a'))).toThrow(
      'failover gave neither null nor one of the living workers.',
    )
  })

  test('what is no strategy is refused, with those that there are', () => {
    for (const given of ['fastest', 1, {}, null])
      expect(() => readFailover(given)).toThrow(
        'failover must be one of: first-free, round-robin, random, least-work, sticky. The default is first-free. Or give a function: (dead, living) => assignee.',
      )
  })

  test('first-free, or nobody left: whoever comes first', () => {
    expect(
      dealOut('first-free', { id: 9, lanes: [1], inFlight: 1 }, [{ id: 1, host: 'h', inFlight: 0 }]),
    ).toBeNull()
    expect(dealOut('random', { id: 9, lanes: [1], inFlight: 1 }, [])).toBeNull()
  })
})

test('abandoned: what is reserved is only its assignee’s, and then anybody’s', () => {
  const dead = { ended_by: 'lock', lane_assignees: [null, 1, 2], row_assignees: [2, 1] } as const
  const abandoned = new Abandoned()
  expect(abandoned.update([peer(1), peer(7, { ...dead, reserved: true })], 1)).toBe(true)
  expect([abandoned.free, abandoned.lanes, abandoned.rows]).toEqual([[], [share(7, 1)], [share(7, 1)]])
  expect(abandoned.update([peer(1), peer(7, { ...dead, reserved: true })], 1)).toBe(false)
  expect(abandoned.update([peer(1), peer(7, dead)], 1)).toBe(true)
  expect([abandoned.free, abandoned.lanes, abandoned.rows]).toEqual([[7], [], []])
  const taken = [7, 8, null, 1, 7].map((previous) => ({ previous }))
  expect(abandoned.takenOver(taken, 1)).toEqual([
    { fromWorkerId: 7, foundBy: 'lock', of: [taken[0], taken[4]] },
    { fromWorkerId: 8, foundBy: 'lease', of: [taken[1]] },
  ])
})

describe('sightings', () => {
  const deadAfterMs = 5000
  const confirmMs = 100
  const watch = (): { at: (ms: number) => void; sightings: Sightings } => {
    let now = 0
    const sightings = new Sightings({ deadAfterMs, confirmMs, now: () => now })
    return { at: (ms) => (now = ms), sightings }
  }

  test('whoever beats in time is never taken for dead, whatever becomes of the watcher and of the clocks', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            // How long the watcher was busy, frozen or cut off; mostly not.
            pauseMs: fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 100, max: 1000 }) }, fc.nat(60_000)),
            outage: fc.boolean(),
          }),
          { minLength: 1, maxLength: 60 },
        ),
        (looks) => {
          const { at, sightings } = watch()
          let now = 0
          let beat = 0
          for (const { pauseMs, outage } of looks) {
            now += pauseMs
            at(now)
            // In an outage of the database, nobody beats and nobody looks; afterwards the watcher may be the first.
            const cut = outage && pauseMs > deadAfterMs / 4
            if (cut) sightings.reset()
            else beat++
            const verdicts = sightings.look([peer(1, { beat: String(beat), unlocked: cut })])
            expect(verdicts).toEqual([])
          }
        },
      ),
    )
  })

  test('whoever is silent is found, as soon as it was watched for deadAfterMs', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 50, max: 1000 }), { minLength: 200, maxLength: 200 }),
        (pauses) => {
          const { at, sightings } = watch()
          let now = 0
          for (const pauseMs of pauses) {
            now += pauseMs
            at(now)
            const verdicts = sightings.look([peer(1)])
            const since = now - pauses[0]!
            expect(verdicts.map(({ foundBy }) => foundBy)).toEqual(since > deadAfterMs ? ['heartbeat'] : [])
            if (since > deadAfterMs) return
          }
        },
      ),
    )
  })

  test('a missing lock is a death when it is still missing a moment later', () => {
    const { at, sightings } = watch()
    expect(sightings.look([peer(1)])).toEqual([])
    at(200)
    expect(sightings.look([peer(1, { unlocked: true })])).toEqual([])
    expect(sightings.pauseMs(true)).toBe(100)
    at(300)
    expect(sightings.look([peer(1, { unlocked: true })]).map(({ foundBy }) => foundBy)).toEqual(['lock'])
  })

  test('each of a fleet looks more seldom, and often enough to find whoever is silent', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 100 }), (others) => {
        const { at, sightings } = watch()
        const look = (beat: string): Verdict[] =>
          sightings.look(Array.from({ length: others }, (_, id) => peer(id, { beat })))
        look('1')
        const pauseMs = sightings.pauseMs(true)
        expect(pauseMs).toBe(others <= 5 ? 200 : Math.min(others * 40, deadAfterMs / 10))
        // On a busy machine it takes twice as long. That must not count as a break of the watch.
        let now = 0
        for (; now <= deadAfterMs; now += pauseMs * 2) {
          at(now)
          expect(look('2')).toEqual([])
        }
        at(now)
        expect(look('2')).toHaveLength(others)
      }),
    )
  })

  test('alone it looks seldom, unless somebody has come or gone lately', () => {
    const { sightings } = watch()
    expect([sightings.pauseMs(true), sightings.pauseMs(false)]).toEqual([1000, 200])
  })

  describe('a sign that a peer gives beside its row', () => {
    /** What is seen of the signs: everybody's but of these. */
    const signs = (sight: number | null, ...missed: string[]) => ({
      sight,
      misses: (text: string | null) => sight !== null && text !== null && missed.includes(text),
    })
    const given = (changes: Partial<Peer> = {}): Peer => peer(1, { sign: 'a', ...changes })
    const found = (verdicts: readonly Verdict[]): string[] => verdicts.map(({ foundBy }) => foundBy)

    test('is missed at once, and nobody who gives none is judged by it', () => {
      const { at, sightings } = watch()
      const others = [peer(2), peer(3, { sign: 'c' })]
      expect(sightings.look([given(), ...others], signs(1))).toEqual([])
      at(100)
      const verdicts = sightings.look([given(), ...others], signs(1, 'a'))
      expect(verdicts.map(({ peer: { id }, foundBy }) => [id, foundBy])).toEqual([[1, 'session']])
      expect([sightings.isFresh(given()), sightings.isFresh(peer(2))]).toEqual([false, true])
    })

    test('that is taken out of the row is missed by nobody', () => {
      const { at, sightings } = watch()
      sightings.look([given()], signs(1))
      at(100)
      expect(sightings.look([given({ sign: null, beat: '2' })], signs(1, 'a'))).toEqual([])
    })

    test('counts after a break of our own as soon as its peer was heard, and nobody is judged while none can be seen', () => {
      const { at, sightings } = watch()
      sightings.look([given()], signs(1))
      at(100)
      expect(sightings.look([given({ beat: '2' })], signs(null))).toEqual([])
      at(200)
      expect(sightings.look([given({ beat: '2' })], signs(2, 'a'))).toEqual([])
      at(300)
      expect(sightings.look([given({ beat: '2' })], signs(2, 'a'))).toEqual([])
      at(400)
      expect(found(sightings.look([given({ beat: '3' })], signs(2, 'a')))).toEqual(['session'])
    })

    test('counts at once for who has just come, and has lost sight of nobody', () => {
      const { at, sightings } = watch()
      expect(sightings.look([given()], signs(null))).toEqual([])
      at(100)
      expect(found(sightings.look([given()], signs(1, 'a')))).toEqual(['session'])
    })

    test('does not count after a break between two looks', () => {
      const { at, sightings } = watch()
      sightings.look([given()], signs(1))
      at(100)
      expect(sightings.look([given()], signs(2, 'a'))).toEqual([])
      // Its silence does.
      at(1000)
      sightings.look([given()], signs(2, 'a'))
      for (let ms = 1200; ms <= deadAfterMs; ms += 200) {
        at(ms)
        expect(sightings.look([given()], signs(2, 'a'))).toEqual([])
      }
      at(deadAfterMs + 200)
      expect(found(sightings.look([given()], signs(2, 'a')))).toEqual(['heartbeat'])
    })

    test('lets us look more seldom, as often as silence needs it', () => {
      const { sightings } = watch()
      sightings.look([given()], signs(1))
      expect([sightings.pauseMs(true, true), sightings.pauseMs(true)]).toEqual([deadAfterMs / 10, 200])
    })
  })

  test('a connection that is opened again at once is no death', () => {
    const { at, sightings } = watch()
    sightings.look([peer(1)])
    for (let ms = 200; ms < 3000; ms += 200) {
      at(ms)
      expect(sightings.look([peer(1, { unlocked: ms % 400 === 0 })])).toEqual([])
    }
  })

  test('who was not heard of for a while is no assignee', () => {
    const { at, sightings } = watch()
    sightings.look([peer(1), peer(2)])
    for (let ms = 500; ms <= 3000; ms += 500) {
      at(ms)
      sightings.look([peer(1, { beat: String(ms) }), peer(2)])
    }
    expect([sightings.isFresh(peer(1)), sightings.isFresh(peer(2))]).toEqual([true, false])
  })
})
