import { inspect } from 'node:util'
import { describe, expect, it, test } from 'vitest'
import { curveKeyPair } from 'zeromq'
import { OptionError } from '../../../src/base/errors.ts'
import { zeromq as adapter } from '../../../src/brokers/zeromq/adapter.ts'
import { readUrl } from '../../../src/brokers/zeromq/addresses.ts'
import { z85 } from '../../../src/brokers/zeromq/curve.ts'
import { loadZeromq } from '../../../src/brokers/zeromq/library.ts'
import { zeromq, type ZeromqOptions } from '../../../src/brokers/zeromq/zeromq.ts'
import { outgoing } from '../../support/messages.ts'
import { never } from './fixture.ts'

const addresses = ['tcp://127.0.0.1:1']
const topics = ['#']
const keys = curveKeyPair()

describe('The options of zeromq()', () => {
  const wrong: [string, object][] = [
    ['consumers', {}],
    ['consumers', { consumers: [] }],
    ['consumers', { consumers: { billing: { addresses: [], topics } } }],
    ['consumers', { consumers: { billing: { addresses: ['127.0.0.1:1'], topics } } }],
    ['consumers', { consumers: { billing: { addresses: ['tcp://127.0.0.1:0'], topics } } }],
    ['consumers', { consumers: { billing: { addresses: ['tcp://127.0.0.1:65536'], topics } } }],
    ['consumers', { consumers: { billing: { addresses: ['ipc:///tmp/x'], topics } } }],
    ['consumers', { consumers: { billing: { addresses: ['tcp://*:1'], topics } }, insecure: true }],
    ['consumers', { consumers: { billing: { addresses, topics: [] } } }],
    ['consumers', { consumers: { billing: { addresses, topics: ['a b'] } } }],
    ['consumers', { consumers: { billing: { addresses, topics, adresses: addresses } } }],
    ['consumers', { consumers: { billing: { addresses, topics, publicKey: keys.publicKey } } }],
    ['consumers', { consumers: { a: { addresses, topics }, b: { addresses, topics } } }],
    ['consumer', { consumers: { 'a b': { addresses, topics } } }],
    ['consumers.billing.publicKey', { consumers: { billing: { addresses, topics } }, curve: keys }],
    // In the clear, and not on this machine.
    ['consumers', { consumers: { billing: { addresses: ['tcp://10.0.0.5:1'], topics } } }],
    ['consumers', { consumers: { billing: { addresses: ['tcp://127.0.0.1.example.com:1'], topics } } }],
    ['bind', { bind: 'tcp://0.0.0.0:1' }],
    ['bind', { bind: 'tcp://*:1' }],
    ['bind', { bind: 'tcp://[::]:1' }],
    ['bind', { bind: 7301 }],
    ['curve', { bind: addresses[0], curve: 'secret' }],
    ['curve', { bind: addresses[0], curve: { ...keys, alow: [] } }],
    ['curve.secretKey', { bind: addresses[0], curve: { ...keys, secretKey: 's3cret' } }],
    ['curve.allow', { bind: addresses[0], curve: { ...keys, allow: [] } }],
    ['curve.allow', { bind: addresses[0], curve: { ...keys, allow: ['s3cret'] } }],
    ['insecure', { bind: addresses[0], insecure: 'yes' }],
    ['source', { bind: addresses[0], source: '' }],
    ['unroutable', { bind: addresses[0], unroutable: 'ignore' }],
    ['sendTimeoutMs', { bind: addresses[0], sendTimeoutMs: 99 }],
    ['ackTimeoutMs', { bind: addresses[0], ackTimeoutMs: 99 }],
    ['heartbeatMs', { bind: addresses[0], heartbeatMs: 49 }],
    ['refreshMs', { bind: addresses[0], refreshMs: 0 }],
    ['maxUnconfirmed', { bind: addresses[0], maxUnconfirmed: 5001 }],
    ['maxUnconfirmedBytes', { bind: addresses[0], maxUnconfirmedBytes: 0 }],
    ['maxMessageBytes', { bind: addresses[0], maxMessageBytes: 999 }],
    ['bnid', { bind: addresses[0], bnid: 'misspelt' }],
  ]
  it.each(wrong)('refuses a wrong %s: %j before anything connects', (option, options) => {
    const attempt = (): unknown => zeromq(options)
    expect(attempt).toThrow(OptionError)
    expect(attempt).toThrow(expect.objectContaining({ option }))
    expect(attempt).not.toThrow(/s3cret/)
  })

  const right: ZeromqOptions[] = [
    { consumers: { billing: { addresses: ['tcp://10.0.0.5:1'], topics } }, insecure: true },
    { consumers: { billing: { addresses: ['tcp://[::1]:1', 'tcp://localhost:1'], topics } } },
    {
      consumers: { billing: { addresses: ['tcp://b.example.com:1'], topics, publicKey: keys.publicKey } },
      curve: keys,
    },
    { bind: 'tcp://*:1', curve: { ...keys, allow: [keys.publicKey] } },
    { bind: 'tcp://0.0.0.0:1', insecure: true },
  ]
  it.each(right)('takes %j', (options) => expect(zeromq(options).name).toBe('zeromq'))

  it('refuses what a function gives as it refuses the option, as an error of the broker', async () => {
    const consumers = { billing: { addresses: ['tcp://10.0.0.5:1'], topics } }
    const broker = zeromq({ consumers: () => consumers })
    const outcomes = await broker.send([outgoing('a')], { signal: never })
    expect(outcomes).toMatchObject([
      { status: 'failed', error: { kind: 'config', message: expect.stringContaining('insecure: true') } },
    ])
    await broker.close()
  })

  it('says before it starts what no waiting would mend', async () => {
    const refused = (options: ZeromqOptions, consumer: string | null): Promise<unknown> =>
      expect(zeromq(options).probe!(consumer)).rejects.toMatchObject({ kind: 'config' })
    await refused({ bind: addresses[0] }, null)
    await refused({ consumers: { billing: { addresses, topics } } }, 'shipping')
    // By itself ZeroMQ lets in every key.
    await refused({ bind: addresses[0], curve: keys }, 'billing')
    await zeromq({ bind: addresses[0], curve: { ...keys, allow: [keys.publicKey] } }).probe!('billing')
    await zeromq({ consumers: { billing: { addresses, topics } } }).probe!('billing')
    await zeromq({ consumers: { billing: { addresses, topics } } }).probe!(null)
  })

  it('keeps the secret key out of the broker and of its errors', async () => {
    const consumers = { billing: { addresses, topics, publicKey: keys.publicKey } }
    const broker = zeromq({ consumers, curve: keys })
    const outcomes = await broker.send([outgoing('a')], { signal: never })
    await broker.close()
    expect(outcomes).toMatchObject([{ status: 'failed', error: { kind: 'reconnect' } }])
    expect(inspect([broker, outcomes], { depth: 10, showHidden: true })).not.toContain(keys.secretKey)
  })

  it('says how to get zeromq when it is not there', async () => {
    const missing = Promise.reject(new Error('ERR_MODULE_NOT_FOUND'))
    await expect(loadZeromq(() => missing)).rejects.toMatchObject({
      kind: 'config',
      message: expect.stringContaining('npm install zeromq'),
    })
    expect((await loadZeromq()).Router).toBeTypeOf('function')
  })
})

test('--url names consumers, their addresses, and what they take', async () => {
  expect(readUrl(adapter.urlExample)).toEqual({
    billing: { addresses: ['tcp://127.0.0.1:7301', 'tcp://127.0.0.1:7302'], topics: ['order.*'] },
  })
  expect(readUrl('tcp://h:1/a?topic=x.%23&topic=y, tcp://h:2/b')).toEqual({
    a: { addresses: ['tcp://h:1'], topics: ['x.#', 'y'] },
    b: { addresses: ['tcp://h:2'], topics: ['#'] },
  })
  for (const url of ['', 'tcp://h:1', 'h:1/a', 'tcp://h:1/a?topic=x.#', 'tcp://h:1/a/b'])
    expect(() => readUrl(url)).toThrow(OptionError)
  const place = { database: () => '', schema: 'twinbox', url: 'tcp://10.0.0.5:1/a' }
  await expect(adapter.open(place)).rejects.toMatchObject({ option: 'consumers' })
  expect((await adapter.open({ ...place, insecure: true })).name).toBe('zeromq')
})

test('a key is written as ZeroMQ writes it', () => {
  // https://rfc.zeromq.org/spec/32/
  expect(z85(Buffer.from('864fd26fb559f75b', 'hex'))).toBe('HelloWorld')
})
