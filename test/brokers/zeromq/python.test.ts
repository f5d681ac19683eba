import { spawn, type ChildProcess } from 'node:child_process'
import { createInterface, type Interface } from 'node:readline'
import { afterEach, expect, test } from 'vitest'
import { collector, outgoing, statuses } from '../collector.ts'
import { describeWith } from '../../support/require.ts'
import { zmqPython } from '../../support/servers/python.ts'
import { shared } from '../../support/shared.ts'
import { never, newAddress, useFixture } from './fixture.ts'

/** Another language at either end: what docs/zeromq.md says of the wire is enough to write it. */
describeWith('python3-zmq', await shared(zmqPython), 'A program in Python', ({ program }) => {
  const { make, listen } = useFixture()
  const children: ChildProcess[] = []
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL')
  })
  const start = (as: 'send' | 'receive', address: string): { child: ChildProcess; said: Interface } => {
    const child = spawn(program, ['test/brokers/zeromq/peer.py', as, address], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    children.push(child)
    return { child, said: createInterface({ input: child.stdout }) }
  }
  test('sends to a receiver, and is told what became of each message', async () => {
    const address = await newAddress()
    const inbox = collector()
    await listen(address, inbox.onBatch, { topics: ['order.*'] })
    const { child, said } = start('send', address)
    const event = { ce_specversion: '1.0', ce_id: 'a-1', ce_source: '/shop', ce_type: 'order.placed' }
    const messages = [
      { id: 'a-1', headers: { ...event, ce_partitionkey: 'k', 'content-type': 'application/json' } },
      { id: 'a-2', headers: { ce_type: 'order.placed', 'x-plain': 'žluť' } },
      { id: 'a-3', headers: { ...event, ce_id: 'a-3', ce_type: 'invoice.sent' } },
    ]
    for (const message of messages)
      child.stdin!.write(`${JSON.stringify({ ...message, body: `{"of":"${message.id}"}` })}\n`)
    child.stdin!.end()
    const answers: string[][] = []
    for await (const line of said) answers.push(JSON.parse(line) as string[])
    expect(answers.toSorted(([a], [b]) => (a! < b! ? -1 : 1))).toEqual([
      ['a-1', 'ok'],
      ['a-2', 'ok'],
      ['a-3', 'no', 'No receiver here takes the topic "invoice.sent".'],
    ])
    expect(inbox.received.map(({ body, ...rest }) => [rest, Buffer.from(body).toString()])).toEqual([
      [
        {
          ...{ topic: 'order.placed', key: 'k', position: null, redelivered: false },
          contentType: 'application/json',
          headers: { ...event, ce_partitionkey: 'k' },
        },
        '{"of":"a-1"}',
      ],
      [
        {
          ...{ topic: 'order.placed', key: null, position: null, redelivered: false, contentType: null },
          headers: { ce_type: 'order.placed', 'x-plain': 'žluť', 'message-id': 'a-2' },
        },
        '{"of":"a-2"}',
      ],
    ])
  })

  test('receives what a relay sends, and what it acknowledges is sent', async () => {
    const address = await newAddress()
    const { said } = start('receive', address)
    const broker = make({ consumers: { python: { addresses: [address], topics: ['#'] } } })
    const sent = [outgoing('order.placed', { key: 'Kunde 7', content: '{"total":1}' }), outgoing('refused')]
    const got: string[][] = []
    said.on('line', (line) => got.push(JSON.parse(line) as string[]))
    let outcomes: string[] = []
    do {
      // Until it listens.
      outcomes = statuses(await broker.send(sent, { signal: never }))
      await new Promise((resolve) => setTimeout(resolve, 20))
    } while (outcomes.includes('failed'))
    expect(outcomes).toEqual(['sent', 'rejected'])
    // What it prints takes its own way.
    await expect.poll(() => got.length, { timeout: 20_000, interval: 5 }).toBe(2)
    expect(got.map(([id, , body]) => [id, body])).toEqual(sent.map(({ id, content }) => [id, content]))
    expect(JSON.parse(got[0]![1]!)).toEqual({
      ce_specversion: '1.0',
      ce_id: sent[0]!.id,
      ce_source: 'twinbox',
      ce_type: 'order.placed',
      ce_time: sent[0]!.publishedAt.toISOString(),
      ce_partitionkey: 'Kunde 7',
      'content-type': 'application/json',
    })
  })
})
