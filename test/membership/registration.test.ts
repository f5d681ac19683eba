import fc from 'fast-check'
import { expect, onTestFinished, test, vi } from 'vitest'
import { StateMachine, type Moves } from '../../src/base/state.ts'
import { readFailover } from '../../src/membership/failover.ts'
import { lifeMoves, type Life } from '../../src/membership/life.ts'
import type { Holder } from '../../src/membership/options.ts'
import { Registration } from '../../src/membership/registration.ts'
import { consumer, database, events, inbox, useInbox } from '../support/inbox.ts'
import { movedMachines } from '../support/states.ts'
import { asInProduction, tripping } from '../support/tripwire.ts'

/** What may follow what in a worker's life, and what becomes of a worker that loses its way. */

useInbox()

test('a state machine goes where its moves lead, and nowhere else', () => {
  const names = ['a', 'b', 'c', 'd'] as const
  type Name = (typeof names)[number]
  const following = fc.subarray([...names])
  fc.assert(
    fc.property(
      fc.record<Moves<Name>>({ a: following, b: following, c: following, d: following }),
      fc.array(fc.constantFrom(...names)),
      (moves, history) => {
        const machine = new StateMachine<Name>('It', moves, 'a', () => {
          throw new Error('In tests it throws before anybody is told.')
        })
        let state: Name = 'a'
        for (const to of history) {
          if (moves[state].includes(to)) expect(machine.go((state = to))).toBe(true)
          else
            expect(tripping(() => machine.go(to)).message).toContain(
              `It cannot go from "${state}" to "${to}".`,
            )
          expect([machine.state, machine.is(state)]).toEqual([state, true])
        }
      },
    ),
  )
})

/** Joins, and hands out its state machine. */
async function join() {
  const machines = movedMachines<Life>()
  const told: string[] = []
  const member: Pick<Holder, 'inFlight' | 'onVoid' | 'onReturn'> = {
    inFlight: 0,
    onVoid: (reason) => void told.push(`void: ${reason}`),
    onReturn: async (formerId) => void told.push(`return: ${formerId}`),
  }
  const registration = new Registration(
    {
      ...{ database: inbox, kind: 'receiver', consumer },
      ...{
        heartbeatMs: 50,
        deadAfterMs: 60_000,
        leaseMs: 60_000,
        failover: readFailover(undefined),
        failoverGraceMs: 0,
      },
      emit: (happening) =>
        events.onEvent({ ...happening, kind: 'receiver', consumer: null, workerId: registration.id }),
    },
    member,
  )
  await registration.join()
  onTestFinished(() => registration.leave())
  return { registration, machine: machines[0]!, told }
}

const endedBy = async (id: number): Promise<string | null | undefined> =>
  (
    await database.query<{ ended_by: string | null }>('select ended_by from twinbox.worker where id = $1', [
      id,
    ])
  )[0]?.ended_by

test('in tests, an impossible move throws', async () => {
  const { machine } = await join()
  expect(machine.state).toBe('member')
  for (const to of Object.keys(lifeMoves) as Life[])
    if (!lifeMoves.member.includes(to)) tripping(() => machine.go(to))
  expect(machine.state).toBe('member')
})

test('in production it is an event, all that was held is void, and the worker comes back as another one', async () => {
  onTestFinished(asInProduction())
  const { registration, machine, told } = await join()
  const id = registration.id!
  expect(machine.go('outside')).toBe(false)
  expect(registration.id).toBeNull()
  expect(events.of('trouble')).toMatchObject([{ error: { code: 'IMPOSSIBLE_MOVE' }, doing: 'heartbeat' }])
  expect(told).toEqual([expect.stringMatching(/^void: A worker cannot go from "member" to "outside"/)])
  await vi.waitUntil(() => registration.id !== null, 20_000)
  expect(registration.id).not.toBe(id)
  expect(told[1]).toBe(`return: ${id}`)
  expect(await endedBy(id)).toBe('stop')
  expect(await endedBy(registration.id!)).toBeNull()
})
