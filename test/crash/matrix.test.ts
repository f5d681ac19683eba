import { freePort } from '../../proof/stage/postgres.ts'
import { describeWith } from '../support/require.ts'
import { kafka as kafkaServer } from '../support/servers/kafka.ts'
import { rabbitmq as rabbitmqServer } from '../support/servers/rabbitmq.ts'
import { shared } from '../support/shared.ts'
import { suite } from './playing.ts'
import { unique } from './stage.ts'

/**
 * The kill matrix: a real process is killed by SIGKILL at each step of what it does, with one message in flight, and
 * another one, started like the first, has to see it through. What becomes of that message is known exactly: at which
 * attempt it is handled, how often, how many copies of it are dropped. `REPEATS=20` does it twenty times; with it, all that
 * dies over Postgres dies over the other brokers as well, even where these have no part in it.
 */
const rabbit = await shared(rabbitmqServer)
const kafka = await shared(kafkaServer)

describeWith('postgres', {}, 'kill matrix', () => suite('postgres', () => ({ kind: 'postgres' })))

describeWith('rabbitmq', rabbit, 'kill matrix', ({ url }) => {
  suite('rabbitmq', () => ({
    kind: 'rabbitmq',
    url,
    exchange: unique('twinbox.test'),
    queue: unique('twinbox.test'),
  }))
})

// It has no server.
describeWith('zeromq', {}, 'kill matrix', () => {
  suite('zeromq', async () => ({ kind: 'zeromq', address: `tcp://127.0.0.1:${await freePort()}` }))
})

describeWith('kafka', kafka, 'kill matrix', ({ brokers }) => {
  suite('kafka', () => ({ kind: 'kafka', brokers, group: unique('twinbox.test') }))
})
