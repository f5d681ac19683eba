import { afterEach, expect, test } from 'vitest'
import { Stage, unique } from '../crash/stage.ts'
import { describeWith } from '../support/require.ts'
import { startRabbitmq } from '../support/servers/rabbitmq.ts'
import { publishThroughout } from './load.ts'

/** RabbitMQ stops in the middle of the load, and comes back. */
describeWith('rabbitmq', await startRabbitmq(), 'broker restart', (node) => {
  const { url } = node
  let stage: Stage | undefined
  afterEach(() => stage?.close())

  test('publishing goes on while it is down, nothing is held against a message, and all workers resume', async () => {
    const exchange = unique('twinbox.test')
    const staged = (stage = await Stage.open({ kind: 'rabbitmq', url, exchange, queue: exchange }))
    const receiver = staged.start({ role: 'receiver' })
    await receiver.started
    const relays = [1, 2].map(() => staged.start({ role: 'relay' }))
    const claimer = staged.start({ role: 'claimer' })
    const workers = [receiver, ...relays, claimer]
    await Promise.all(workers.map(({ started }) => started))
    const load = publishThroughout(staged, 1)
    await staged.until('select count(*) > 50 as done from effects')

    await node.ctl('stop_app')
    const down = await Promise.any(relays.map((relay) => relay.next('broker_down')))
    expect(down.retryInMs).toBeGreaterThan(0)
    // The outbox takes what the broker cannot.
    await staged.until('select count(*) > 300 as done from twinbox.outbox')
    await node.ctl('start_app')
    await Promise.any(relays.map((relay) => relay.next('broker_up')))
    await load.stop()
    await staged.drained()

    expect(await staged.faults()).toEqual([])
    expect(load.refused()).toBe(0)
    const failed = relays.flatMap(({ events }) => events.filter(({ type }) => type === 'message_failed'))
    expect(failed).toEqual([])
    expect(await staged.database.query('select count(*)::int as count from twinbox.dead_letter')).toEqual([
      { count: 0 },
    ])
    for (const worker of workers) expect(await worker.end()).toBe(0)
  })
})
