import { useFixture } from '../brokers/rabbitmq/fixture.ts'
import { describeWith } from '../support/require.ts'
import { pika } from '../support/servers/python.ts'
import { rabbitmq } from '../support/servers/rabbitmq.ts'
import { shared } from '../support/shared.ts'
import { suite } from './suite.ts'

const python = await shared(pika)

describeWith('rabbitmq', await shared(rabbitmq), 'examples/python', ({ url }) => {
  describeWith('python3-pika', python, 'consumer and publisher', ({ program }) => {
    const { exchange, make, newTopic, newQueue } = useFixture(() => url)
    suite({
      python: program,
      consumer: 'rabbitmq_consumer.py',
      publisher: 'rabbitmq_publisher.py',
      env: { AMQP_URL: url, EXCHANGE: exchange },
      broker: make,
      newTopic: async () => newTopic(),
      newName: newQueue,
      // With a prefetch of one, one message is on its way.
      repeatsPerKill: 1,
    })
  })
})
