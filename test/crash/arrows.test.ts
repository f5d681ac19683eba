import { afterAll, afterEach, beforeEach, expect, test } from 'vitest'
import { describeWith, isMissing, type Found } from '../support/require.ts'
import { findKafka } from '../support/kafka.ts'
import { findRabbitmq } from '../support/rabbitmq.ts'
import type { BrokerSpec } from './program.ts'
import { Stage, unique } from './stage.ts'

/**
 * The crash table of the design, row by row: a real process is killed by SIGKILL just before and just after the point
 * of no return of each arrow, and a second one, started like the first, has to see it through.
 */
const rabbit = await findRabbitmq()
const kafka = await findKafka()

const mixedKeys = ['a', null, 'a', 'b', null, 'a', null, 'b', 'a']
/** Of one lane, so that they are all in the one batch at which the process is killed. */
const oneKey = mixedKeys.map(() => 'a')

interface Row {
  readonly arrow: 'relay' | 'receiver' | 'claimer'
  readonly point: string
  /** How many of the first batch arrive twice at the next station: never more than were in hand. */
  readonly repeats: 'none' | 'some' | 'dropped'
}

const relayRows: Row[] = [
  { arrow: 'relay', point: 'relay.before_send', repeats: 'none' },
  { arrow: 'relay', point: 'relay.after_send', repeats: 'dropped' },
  { arrow: 'relay', point: 'relay.before_delete', repeats: 'dropped' },
  { arrow: 'relay', point: 'relay.after_delete', repeats: 'none' },
]
const receiverRows: Row[] = [
  { arrow: 'receiver', point: 'receiver.before_commit', repeats: 'none' },
  { arrow: 'receiver', point: 'receiver.after_commit', repeats: 'dropped' },
]
const claimerRows: Row[] = [
  { arrow: 'claimer', point: 'claimer.after_claim', repeats: 'none' },
  { arrow: 'claimer', point: 'claimer.before_handle', repeats: 'none' },
  { arrow: 'claimer', point: 'claimer.before_settle', repeats: 'none' },
  { arrow: 'claimer', point: 'claimer.before_commit', repeats: 'none' },
  { arrow: 'claimer', point: 'claimer.after_commit', repeats: 'none' },
]

function suite(spec: () => BrokerSpec, rows: readonly Row[]): void {
  let stage: Stage
  beforeEach(async () => {
    stage = await Stage.open(spec())
  })
  afterEach(() => stage.close())

  for (const { arrow, point, repeats } of rows) {
    test(`a ${arrow} killed at ${point} loses nothing and repeats nothing that counts`, async () => {
      const roles = ['receiver', 'relay', 'claimer'] as const
      const keys = arrow === 'claimer' ? mixedKeys : oneKey
      // The subscription has to be there before anything is sent.
      const receiver = stage.start({
        role: 'receiver',
        ...(arrow === 'receiver' ? { dieAt: { point, hit: 1 } } : {}),
      })
      await receiver.started
      const victim =
        arrow === 'receiver'
          ? receiver
          : stage.start({ role: arrow, dieAt: { point, hit: arrow === 'claimer' ? 2 : 1 } })
      await victim.started
      await stage.publish(keys)
      const others = roles
        .filter((role) => role !== arrow && role !== 'receiver')
        .map((role) => stage.start({ role }))
      expect(await victim.ended).toBe('SIGKILL')
      const survivor = stage.start({ role: arrow })
      await stage.publish(keys)
      await stage.drained()
      expect(await stage.faults()).toEqual([])
      const received = [receiver, survivor].flatMap(({ events }) =>
        events.flatMap((event) => (event.type === 'received' ? [event.duplicates] : [])),
      )
      const duplicates = received.reduce((sum, count) => sum + count, 0)
      if (stage.broker.kind !== 'postgres' && arrow !== 'claimer') {
        if (repeats === 'dropped') expect(duplicates).toBeGreaterThan(0)
        else expect(duplicates).toBe(0)
        expect(duplicates).toBeLessThanOrEqual(keys.length)
      }
      for (const actor of [survivor, ...others]) expect(await actor.end()).toBe(0)
    })
  }
}

describeWith('postgres', {}, 'crash table', () => {
  suite(() => ({ kind: 'postgres' }), [...relayRows, ...claimerRows])

  let stage: Stage
  beforeEach(async () => {
    stage = await Stage.open()
  })
  afterEach(() => stage.close())

  test('a publisher killed before its commit leaves neither data nor message', async () => {
    const publisher = stage.start({
      role: 'publisher',
      dieAt: { point: 'publisher.before_commit', hit: 1 },
      messages: [{ topic: stage.topic, key: 'a', payload: { n: 1 } }],
    })
    expect(await publisher.ended).toBe('SIGKILL')
    expect(await stage.database.query('select from ledger union all select from twinbox.outbox')).toEqual([])
  })

  test('a publisher killed after its commit has published', async () => {
    for (const role of ['receiver', 'relay', 'claimer'] as const) await stage.start({ role }).started
    const publisher = stage.start({
      role: 'publisher',
      dieAt: { point: 'publisher.after_commit', hit: 1 },
      messages: [{ topic: stage.topic, key: 'a', payload: { n: 1 } }],
    })
    expect(await publisher.ended).toBe('SIGKILL')
    await stage.drained()
    expect(await stage.database.query('select n, attempt from effects')).toEqual([{ n: 1, attempt: 1 }])
    expect(await stage.faults()).toEqual([])
  })
})

describeWith('rabbitmq', rabbit, 'crash table', ({ url }) => {
  suite(
    () => ({ kind: 'rabbitmq', url, exchange: unique('twinbox.test'), queue: unique('twinbox.test') }),
    [...relayRows, ...receiverRows, ...claimerRows],
  )
})

describeWith('kafka', kafka, 'crash table', ({ brokers }) => {
  suite(() => ({ kind: 'kafka', brokers, group: unique('twinbox.test') }), [...relayRows, ...receiverRows])
})

afterAll(async () => {
  for (const service of [rabbit, kafka] as Found<{ stop?: () => Promise<void> }>[]) {
    if (!isMissing(service)) await service.stop?.()
  }
})
