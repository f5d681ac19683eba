import { expect, test } from 'vitest'
import { kafka as kafkaServer } from '../support/servers/kafka.ts'
import { rabbitmq as rabbitmqServer } from '../support/servers/rabbitmq.ts'
import { shared } from '../support/shared.ts'
import { describeWith } from '../support/require.ts'
import { Stage, unique } from './stage.ts'
import type { BrokerSpec } from './worker.ts'

/** A process whose workers have stopped ends by itself, see `endByItself`: nothing of ours keeps it alive. */
const rabbit = await shared(rabbitmqServer)
const kafka = await shared(kafkaServer)
const roles = ['receiver', 'relay', 'claimer'] as const

function suite(spec: () => BrokerSpec): void {
  test('what has stopped has left nothing that keeps its process alive', async () => {
    const stage = await Stage.open(spec())
    try {
      const actors = []
      for (const role of roles) {
        const actor = stage.start({ role })
        await actor.started
        actors.push(actor)
      }
      await stage.publish(['a', null, 'b'])
      await stage.drained()
      for (const actor of actors) expect(await actor.end()).toBe(0)
    } finally {
      await stage.close()
    }
  })
}

describeWith('postgres', {}, 'stop', () => suite(() => ({ kind: 'postgres' })))
describeWith('rabbitmq', rabbit, 'stop', ({ url }) => {
  suite(() => ({ kind: 'rabbitmq', url, exchange: unique('twinbox.test'), queue: unique('twinbox.test') }))
})
describeWith('kafka', kafka, 'stop', ({ brokers }) => {
  suite(() => ({ kind: 'kafka', brokers, group: unique('twinbox.test') }))
})
