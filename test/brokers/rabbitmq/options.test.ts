import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { classify, rabbitmq } from '../../../src/brokers/rabbitmq/rabbitmq.ts'
import { loadAmqplib } from '../../../src/brokers/rabbitmq/connection.ts'
import { OptionError, type BrokerErrorKind } from '../../../src/base/errors.ts'
import { outgoing } from '../../support/messages.ts'

const url = 'amqp://user:s3cret@127.0.0.1:1'

describe('The options of rabbitmq()', () => {
  const wrong: [string, unknown][] = [
    ['url', undefined],
    ['url', 'http://user:s3cret@localhost'],
    ['url', 'amqp://user:s3cret@[bad'],
    ['insecure', 'yes'],
    ['renewMs', 999],
    ['heartbeatSeconds', 0],
    ['heartbeatSeconds', 1.5],
    ['heartbeatSeconds', '5'],
    ['sendTimeoutMs', 99],
    ['maxUnconfirmed', 0],
    ['maxUnconfirmedBytes', -1],
    ['prefetch', 0],
    ['prefetch', 65_536],
    ['exchange', ''],
    ['exchange', 'with space'],
    ['source', ''],
    ['unroutable', 'ignore'],
    ['queueType', 'stream'],
    ['topology', true],
    ['queue', 'name'],
    ['routingKey', 'name'],
    ['exchnage', 'misspelt'],
  ]
  it.each(wrong)('refuses %s: %j before anything connects', (option, value) => {
    const attempt = (): unknown => rabbitmq({ url, [option]: value })
    expect(attempt).toThrow(OptionError)
    expect(attempt).toThrow(expect.objectContaining({ option }))
    expect(attempt).not.toThrow(/s3cret/)
  })

  it('keeps the password out of the broker and of its errors', async () => {
    const broker = rabbitmq({ url })
    const message = outgoing('a')
    const outcomes = await broker.send([message], { signal: new AbortController().signal })
    await broker.close()
    expect(outcomes).toMatchObject([{ status: 'failed', error: { kind: 'reconnect' } }])
    expect(inspect([broker, outcomes], { depth: 10, showHidden: true })).not.toContain('s3cret')
  })

  it('says how to get amqplib when it is not there', async () => {
    const missing = Promise.reject(new Error('ERR_MODULE_NOT_FOUND'))
    await expect(loadAmqplib(() => missing)).rejects.toMatchObject({
      kind: 'config',
      message: expect.stringContaining('npm install amqplib'),
    })
    expect((await loadAmqplib()).connect).toBeTypeOf('function')
  })
})

describe('classify', () => {
  const withCodes = (fields: object): Error => Object.assign(new Error('x'), fields)
  const table: [string, unknown, BrokerErrorKind][] = [
    ['404 for an exchange or a queue', withCodes({ code: 404, classId: 60, methodId: 40 }), 'config'],
    ['403', withCodes({ code: 403, classId: 50, methodId: 10 }), 'config'],
    ['405, an exclusive queue of another', withCodes({ code: 405, classId: 50, methodId: 10 }), 'config'],
    ['406 for a queue', withCodes({ code: 406, classId: 50, methodId: 10 }), 'config'],
    ['406 for an exchange', withCodes({ code: 406, classId: 40, methodId: 10 }), 'config'],
    ['406 for a message', withCodes({ code: 406, classId: 60, methodId: 40 }), 'poison'],
    ['406 for an acknowledgement', withCodes({ code: 406, classId: 60, methodId: 80 }), 'reconnect'],
    ['406 for a consumer that took too long', withCodes({ code: 406, classId: 0, methodId: 0 }), 'reconnect'],
    ['311', withCodes({ code: 311, classId: 60, methodId: 40 }), 'poison'],
    ['312', withCodes({ code: 312 }), 'config'],
    ['320', withCodes({ code: 320 }), 'reconnect'],
    ['506', withCodes({ code: 506 }), 'retry'],
    ['530', withCodes({ code: 530 }), 'config'],
    ['541', withCodes({ code: 541 }), 'reconnect'],
    ['a code of tomorrow', withCodes({ code: 599 }), 'reconnect'],
    ['ECONNREFUSED', withCodes({ code: 'ECONNREFUSED' }), 'reconnect'],
    ['ENOTFOUND', withCodes({ code: 'ENOTFOUND' }), 'reconnect'],
    ['a certificate nobody has signed', withCodes({ code: 'DEPTH_ZERO_SELF_SIGNED_CERT' }), 'config'],
    ['a certificate of another host', withCodes({ code: 'ERR_TLS_CERT_ALTNAME_INVALID' }), 'config'],
    [
      'a refused login',
      new Error('Handshake terminated by server: 403 (ACCESS_REFUSED) with message "x"'),
      'config',
    ],
    [
      'a missing virtual host',
      new Error('Expected ConnectionOpenOk; got <ConnectionClose channel:0>'),
      'config',
    ],
    ['a missed heartbeat', new Error('Heartbeat timeout'), 'reconnect'],
    ['something that is no error', 'boom', 'reconnect'],
  ]
  it.each(table)('takes %s for what it is', (_, error, kind) => {
    expect(classify(error)).toBe(kind)
  })
})
