import { describe, expect, test } from 'vitest'
import { makeBroker, makeWorker, type Program } from './worker.ts'
import { describeWith } from '../support/require.ts'
import { libraries } from '../support/servers/libraries.ts'
import { shared } from '../support/shared.ts'
import { Stage } from './stage.ts'

/**
 * The kill matrix of handlers in the transactions of data libraries: between the completion, which is the last statement of such a
 * transaction, and the commit, which is the library's, a process may die, and it may freeze. Of a library that is bound to the claim's
 * client, completion and commit are ours, and one message to the server.
 */
describeWith('libraries', await shared(libraries), 'killed in the transaction of', ({ newest, oldest }) => {
  const ways = [
    { name: 'Prisma', loader: newest },
    { name: 'postgres.js', loader: oldest },
  ]
  const points = [
    { point: 'claimer.before_handle', key: 'a', attempt: 2 },
    { point: 'claimer.before_settle', key: null, attempt: 2 },
    { point: 'claimer.before_commit', key: 'a', attempt: 2 },
    { point: 'claimer.before_commit', key: null, attempt: 2 },
    { point: 'claimer.after_commit', key: 'a', attempt: 1 },
  ]

  /** Kills or freezes a claimer at the point, and lets another one see it through. */
  async function play(
    library: NonNullable<Program['library']>,
    key: string | null,
    dieAt: NonNullable<Program['dieAt']>,
    options: Program['options'] = {},
  ): Promise<{ faults: readonly string[]; attempts: readonly number[]; by: readonly string[] }> {
    const stage = await Stage.open()
    const broker = makeBroker(stage.broker, stage.database.url)
    const make = (role: Program['role']) =>
      makeWorker(stage.describe({ role, library, options }), broker, { onEvent: () => {} })
    const survivor = make('claimer')
    const workers = [make('receiver'), make('relay'), survivor]
    try {
      await workers[0]!.start()
      await workers[1]!.start()
      const victim = stage.start({ role: 'claimer', library, options, dieAt })
      await victim.started
      await stage.publish([key])
      await victim.dying
      await survivor.start()
      await stage.publish(['a', null, 'b'])
      await stage.drained()
      victim.kill('SIGKILL')
      await victim.ended
      const handled = await stage.database.query<{ attempt: number; worker: number }>(
        'select attempt, worker from effects where n = 0',
      )
      return {
        faults: await stage.faults(),
        attempts: handled.map(({ attempt }) => attempt),
        by: handled.map(({ worker }) => (worker === survivor.id ? 'survivor' : 'victim')),
      }
    } finally {
      await Promise.all(workers.map((worker) => worker.stop()))
      await broker.close()
      await stage.close()
    }
  }

  describe.concurrent.each(ways)('$name', (library) => {
    test.each(points)('killed at $point, key $key', async ({ point, key, attempt }) => {
      expect(await play(library, key, { point })).toEqual({
        ...{ faults: [], attempts: [attempt] },
        by: [attempt === 1 ? 'victim' : 'survivor'],
      })
    })

    test('frozen between completion and commit: the server ends it, and the survivor goes on', async () => {
      const options = { leaseMs: 2000, heartbeatMs: 200, deadAfterMs: 1000 }
      const frozen = { point: 'claimer.before_commit', signal: 'SIGSTOP' } as const
      expect(await play(library, 'a', frozen, options)).toEqual({
        ...{ faults: [], attempts: [expect.any(Number)] },
        by: ['survivor'],
      })
    })
  })

  test.each([
    { point: 'claimer.before_settle', key: 'a', attempt: 2 },
    { point: 'after complete_and_commit', key: null, attempt: 1 },
  ])('Drizzle, bound to the claim: killed at $point, key $key', async ({ point, key, attempt }) => {
    expect(
      await play({ name: 'Drizzle over node-postgres', loader: newest, bound: true }, key, { point }),
    ).toEqual({
      ...{ faults: [], attempts: [attempt] },
      by: [attempt === 1 ? 'victim' : 'survivor'],
    })
  })
})
