import { randomUUID } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { Claim, claimMoves, type ClaimState } from '../../src/claimer/claim.ts'
import type { ClaimedRow } from '../../src/database/sql/inbox.ts'
import { InFlight } from '../../src/claimer/in-flight.ts'
import { Quarantine } from '../../src/claimer/quarantine.ts'
import { Database } from '../../src/database/database.ts'
import { receive } from '../../src/database/inbox.ts'
import { createClaimer } from '../../src/index.ts'
import { recordEvents } from '../support/events.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { asInProduction, tripping } from '../support/tripwire.ts'
import { inboxMessage, messageRow } from '../support/messages.ts'

/** The states of a claim: what may follow what, and what becomes of a move that is impossible. */

const states = Object.keys(claimMoves) as ClaimState[]
const newHand = (windowOf: (claim: Claim) => number = () => 1): InFlight =>
  new InFlight(
    new Quarantine(100),
    () => {
      throw new Error('In tests an impossible move throws before anything is given back.')
    },
    windowOf,
  )

let nextId = 0
const row = (of: Partial<ClaimedRow>): ClaimedRow => ({
  ...messageRow({ id: String(nextId++) }),
  ...{ lane: 1, seq: 1, attempt: 0, fence: 1, crashes: 0, received_at: new Date(), expires_in_ms: null },
  ...of,
})

/** What brings a claim of its own there, by calls that production makes. */
function bring(inFlight: InFlight, keyed: boolean, state: ClaimState): Claim {
  const claim = new Claim(row({ key: keyed ? 'k' : null }), 'here', keyed)
  inFlight.add(claim)
  if (state === 'gone') inFlight.remove(claim)
  if (state === 'waiting' || state === 'gone') return claim
  expect(inFlight.next()).toBe(claim)
  if (state === 'handled') inFlight.handled(claim)
  if (state === 'settling') inFlight.settle([claim])
  if (state === 'pausing') inFlight.pause(claim)
  return claim
}

/** Each call that moves a claim, and where to. */
const calls = {
  settle: { to: 'settling', call: (inFlight: InFlight, claim: Claim) => inFlight.settle([claim]) },
  pause: { to: 'pausing', call: (inFlight: InFlight, claim: Claim) => inFlight.pause(claim) },
  proceed: { to: 'waiting', call: (inFlight: InFlight, claim: Claim) => inFlight.proceed(claim) },
  remove: { to: 'gone', call: (inFlight: InFlight, claim: Claim) => inFlight.remove(claim) },
} as const satisfies Record<string, { to: ClaimState; call: (inFlight: InFlight, claim: Claim) => void }>

describe.each([true, false])('with a key: %s', (keyed) => {
  test.each(states.flatMap((from) => Object.entries(calls).map(([name, call]) => ({ from, name, ...call }))))(
    '$name of one that is $from',
    ({ from, to, call }) => {
      // Without a key there is nothing that could go on meanwhile.
      if (from === 'handled' && !keyed) return
      const inFlight = newHand(() => 2)
      const claim = bring(inFlight, keyed, from)
      expect(claim.state).toBe(from)
      if (claimMoves[from].includes(to)) call(inFlight, claim)
      // Its lease may be lost at any moment, before whoever asks can know.
      else if (from === 'gone') call(inFlight, claim)
      else {
        const defect = tripping(() => call(inFlight, claim))
        expect(defect.message).toContain(`A claim cannot go from "${from}" to "${to}".`)
      }
      expect(claim.state).toBe(claimMoves[from].includes(to) ? to : from)
      expect(inFlight.size).toBe(claim.state === 'gone' ? 0 : 1)
    },
  )
})

test('from each state there is a way to the end', () => {
  for (const state of states)
    expect([state, state === 'gone' || claimMoves[state].includes('gone')]).toEqual([state, true])
  expect(claimMoves.gone).toEqual([])
})

type Step =
  | { readonly do: 'add'; readonly key: string | null; readonly seq: number; readonly topic: string }
  | {
      readonly do:
        | 'next'
        | 'more'
        | 'return'
        | 'settle'
        | 'fail'
        | 'pause'
        | 'proceed'
        | 'again'
        | 'complete'
        | 'remove'
        | 'drop'
      readonly which: number
    }

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constant('add' as const),
    key: fc.constantFrom('a', 'b', null),
    seq: fc.integer({ min: 1, max: 1000 }),
    topic: fc.constantFrom('t', 't', 'u'),
  }),
  fc.record({
    do: fc.constantFrom(
      ...([
        'next',
        'next',
        'next',
        'more',
        'return',
        'return',
        'settle',
        'fail',
        'pause',
        'proceed',
      ] as const),
      ...(['again', 'complete', 'remove', 'drop'] as const),
    ),
    which: fc.nat(20),
  }),
)

const isBusy = ({ state }: Claim): boolean => state === 'handling' || state === 'settling'

/** Two of a key were given out together; the first waits again while it is still being decided what becomes of the other. */
const oneOfTwoWaitsAgain: Step[] = [
  { do: 'add', key: 'a', seq: 1, topic: 't' },
  { do: 'add', key: 'a', seq: 2, topic: 't' },
  { do: 'more', which: 1 },
  { do: 'again', which: 0 },
  { do: 'next', which: 0 },
]

/** The first of two pauses while the handler of the other one returns. */
const theFirstPausesMeanwhile: Step[] = [
  ...oneOfTwoWaitsAgain.slice(0, 3),
  { do: 'pause', which: 0 },
  { do: 'return', which: 0 },
]

test('whatever happens in whatever order: no impossible move, a key one at a time in order, within its window, and nothing is forgotten', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 4 }), (steps, keyWindow) => {
      // Those of the other topic lead their key, as with a handler that has a transaction.
      const windowOf = ({ topic }: Claim): number => (topic === 't' ? keyWindow : 1)
      const inFlight = newHand(windowOf)
      const all: Claim[] = []
      /** Given out together with others of its key. */
      const groups = new Map<Claim, readonly Claim[]>()
      const give = (claims: readonly Claim[]): void => {
        for (const claim of claims) {
          expect(claim.state).toBe('handling')
          groups.set(claim, claims)
          if (!claim.keyed) continue
          const ofKey = inFlight.ofKey(claim)
          const before = ofKey.slice(0, ofKey.indexOf(claim)).filter((other) => !claims.includes(other))
          expect(before.every(({ state }) => state === 'handled')).toBe(true)
          expect(before.length).toBeLessThan(windowOf(claim))
          expect(ofKey.every((other) => !isBusy(other) || claims.includes(other))).toBe(true)
        }
      }
      const choose = (state: ClaimState, which: number): Claim | undefined => {
        const able = all.filter((claim) => claim.state === state)
        return able[which % able.length]
      }
      for (const each of steps) {
        if (each.do === 'add') {
          const { key, seq, topic } = each
          if (all.some((claim) => inFlight.has(claim) && claim.seq === seq)) continue
          const claim = new Claim(row({ lane: key === null ? 64 : 1, key, seq, topic }), 'here', key !== null)
          inFlight.add(claim)
          all.push(claim)
        } else if (each.do === 'next' || each.do === 'more') {
          const first = inFlight.next()
          if (first !== null) give([first, ...(each.do === 'more' ? inFlight.more(first, each.which) : [])])
        } else {
          const handled = choose('handling', each.which)
          const settling = choose('settling', each.which)
          const pausing = choose('pausing', each.which)
          const completing = choose('handled', each.which)
          const any = all.filter((claim) => inFlight.has(claim))[each.which]
          // The first of those that were given out together is the first to return.
          if (each.do === 'return' && handled) {
            const first = groups
              .get(handled)!
              .find((other) => other.state === 'handling' && other.key === handled.key)!
            const isNext = inFlight.ofKey(first).find(({ state }) => state !== 'handled') === first
            inFlight.handled(first)
            expect(first.state).toBe(first.keyed && isNext && windowOf(first) > 1 ? 'handled' : 'handling')
          }
          if (each.do === 'complete' && completing) inFlight.remove(inFlight.ofKey(completing)[0]!)
          if (each.do === 'settle' && handled) inFlight.settle([handled])
          if (each.do === 'fail' && settling) inFlight.unsettle([settling])
          if (each.do === 'pause' && handled) inFlight.pause(handled)
          if (each.do === 'proceed' && pausing) inFlight.proceed(pausing)
          if (each.do === 'again' && handled) inFlight.proceed(handled)
          if (each.do === 'remove' && settling) inFlight.remove(settling)
          if (each.do === 'drop' && any) for (const other of inFlight.from(any)) inFlight.remove(other)
        }
        const held = all.filter((claim) => inFlight.has(claim))
        expect(inFlight.size).toBe(held.length)
        for (const claim of held) {
          if (!claim.keyed) continue
          const ofKey = inFlight.ofKey(claim)
          const handled = ofKey.filter(({ state }) => state === 'handled')
          expect(ofKey.slice(0, handled.length)).toEqual(handled)
          expect(handled.length).toBeLessThanOrEqual(keyWindow)
          expect(inFlight.completedBefore(claim) === true).toBe(handled.length === 0)
        }
        expect(new Set(inFlight.all())).toEqual(new Set(held))
        expect(inFlight.waitingRows).toBe(
          held.filter(({ keyed, state }) => !keyed && state === 'waiting').length,
        )
      }
      // All that is still there can be worked off.
      for (const claim of all) if (claim.state === 'pausing') inFlight.proceed(claim)
      for (const claim of all)
        if (['handling', 'handled', 'settling'].includes(claim.state)) inFlight.remove(claim)
      for (let claim = inFlight.next(); claim !== null; claim = inFlight.next()) {
        give([claim])
        inFlight.remove(claim)
      }
      expect(inFlight.size).toBe(0)
    }),
    {
      numRuns: 2000,
      examples: [
        [oneOfTwoWaitsAgain, 1],
        [theFirstPausesMeanwhile, 2],
      ],
    },
  )
})

describe('in production, an impossible move', () => {
  let database: TestDatabase
  let inbox: Database
  beforeAll(async () => {
    database = await createTestDatabase()
    inbox = new Database(database.url)
    await database.query('create table effects (id text primary key, fence bigint)')
  })
  afterAll(async () => {
    await inbox.close()
    await database.drop()
  })

  const deliver = (consumer: string, key: string | null) =>
    receive(inbox, [inboxMessage({ consumer, key, publishedAt: new Date() })])

  test.each([
    { key: 'k', transaction: true },
    { key: 'k', transaction: false },
    { key: null, transaction: true },
    { key: null, transaction: false },
  ])(
    'is an event, and the lease is given back (key $key, transaction: $transaction)',
    async ({ key, transaction }) => {
      onTestFinished(asInProduction())
      const consumer = `c${randomUUID().slice(0, 8)}`
      const events = recordEvents()
      const given: { inFlight: InFlight; claim: Claim }[] = []
      // oxlint-disable-next-line typescript/unbound-method
      const { next } = InFlight.prototype
      const spy = vi.spyOn(InFlight.prototype, 'next').mockImplementation(function (this: InFlight) {
        const claim = next.call(this)
        if (claim !== null) given.push({ inFlight: this, claim })
        return claim
      })
      onTestFinished(() => {
        spy.mockRestore()
      })
      const fences: number[] = []
      const signals: AbortSignal[] = []
      const handle = async (fence: number, signal: AbortSignal): Promise<void> => {
        fences.push(fence)
        signals.push(signal)
        if (fences.length > 1) return
        const { inFlight, claim } = given.at(-1)!
        inFlight.settle([claim])
        // Something in Twinbox has lost its way.
        inFlight.settle([claim])
        expect(inFlight.has(claim)).toBe(false)
      }
      const claimer = createClaimer(
        { database: database.url, consumer, onEvent: events.onEvent, pollMs: 5, pollMsMax: 20 },
        {
          t: transaction
            ? async ({ id }, { client, fence, signal }) => {
                await client.query('insert into effects values ($1, $2)', [id, fence])
                await handle(fence, signal)
              }
            : { transaction: false, handle: (_, { fence, signal }) => handle(fence, signal) },
        },
      )
      await claimer.start()
      onTestFinished(() => claimer.stop())
      await deliver(consumer, key)
      await events.next('handled')
      const defects = events
        .of('trouble')
        .filter(({ error }) => (error as { code?: string }).code === 'IMPOSSIBLE_MOVE')
      expect(defects.length).toBe(1)
      expect(events.of('lease_lost').length).toBeGreaterThan(0)
      // Whoever has it next has another fence, so what the first one still did would not have counted.
      expect(fences.length).toBe(2)
      expect(fences[1]).toBeGreaterThan(fences[0]!)
      expect(signals.map(({ aborted }) => aborted)).toEqual([true, false])
      if (transaction) {
        const effects = await database.query<{ fence: string }>(
          'select fence from effects where fence = $1 or fence = $2',
          fences,
        )
        expect(effects).toEqual([{ fence: String(fences[1]) }])
      }
      // The next ones go on as ever.
      await deliver(consumer, key)
      await events.next('handled', () => true, 2)
      await claimer.stop()
      expect(events.of('stopped')).toMatchObject([{ released: 0 }])
    },
  )
})
