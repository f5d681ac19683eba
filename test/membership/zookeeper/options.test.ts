import { inspect } from 'node:util'
import { expect, test } from 'vitest'
import { OptionError } from '../../../src/base/errors.ts'
import { checkOptions, type ZookeeperOptions } from '../../../src/membership/zookeeper/options.ts'
import { zookeeper } from '../../../src/membership/zookeeper/zookeeper.ts'
import { createRelay } from '../../../src/index.ts'

/** What is wrong is said before anything connects, and no secret is told. */

const servers = ['127.0.0.1:2181']

test('what is not said has a default; servers are a list or one text, each with its port', () => {
  expect(checkOptions({ servers: 'localhost, 127.0.0.1:2182' })).toEqual({
    servers: ['localhost:2181', '127.0.0.1:2182'],
    sessionTimeoutMs: 4000,
    chroot: '/twinbox',
    auth: null,
  })
  const given = { servers, sessionTimeoutMs: 2000, chroot: '/a/b.c', auth: 'me:se:cret' }
  expect(checkOptions(given)).toEqual(given)
})

test.each([
  [{ servers: [] }, 'servers'],
  [{ servers: '' }, 'servers'],
  [{ servers: ['127.0.0.1:0x1'] }, 'servers'],
  [{ servers: ['127.0.0.1:99999'] }, 'servers'],
  [{ servers: ['zk://hidden@h:2181'] }, 'servers'],
  [{ servers: ['127.0.0.1:2181/chroot'] }, 'servers'],
  [{ servers: [null] }, 'servers'],
  [{ servers: ['127.0.0.1', 'zk2.internal'] }, 'insecure'],
  [{ servers: ['127.0.0.1.example.com'], auth: 'me:hidden' }, 'insecure'],
  [{ servers, insecure: 'yes' }, 'insecure'],
  [{ servers, sessionTimeoutMs: 999 }, 'sessionTimeoutMs'],
  [{ servers, sessionTimeoutMs: 60_001 }, 'sessionTimeoutMs'],
  [{ servers, sessionTimeoutMs: '2000' }, 'sessionTimeoutMs'],
  [{ servers, chroot: '' }, 'chroot'],
  [{ servers, chroot: '/' }, 'chroot'],
  [{ servers, chroot: 'twinbox' }, 'chroot'],
  [{ servers, chroot: '/a/../b' }, 'chroot'],
  [{ servers, chroot: '/a//b' }, 'chroot'],
  [{ servers, auth: 'hidden' }, 'auth'],
  [{ servers, auth: 'me:' }, 'auth'],
  [{ servers, auth: { user: 'me', password: 'hidden' } }, 'auth'],
  [{ servers, timeout: 1 }, 'timeout'],
  [null, 'options'],
] as [object, string][])('%j is refused by its option %s', (options, option) => {
  const refusal = (): unknown => zookeeper(options as ZookeeperOptions)
  expect(refusal).toThrow(OptionError)
  try {
    refusal()
  } catch (error) {
    expect(error).toMatchObject({ option, code: 'INVALID_OPTION' })
    expect(String(error)).not.toContain('hidden')
  }
})

test('another machine is allowed by insecure: true', () => {
  expect(checkOptions({ servers: 'zk1.internal', insecure: true }).servers).toEqual(['zk1.internal:2181'])
})

test('a worker takes what zookeeper() has made, and nothing else', () => {
  const broker = { send: () => {} } as never
  const database = 'postgres://127.0.0.1:1/x'
  for (const coordination of [{ servers }, 'zookeeper', null, () => {}])
    expect(() => createRelay({ database, broker, coordination: coordination as never })).toThrow(
      /^coordination must be what zookeeper\(\{ servers \}\) of twinbox\/zookeeper returns/,
    )
  const coordination = zookeeper({ servers, auth: 'me:hidden' })
  expect(createRelay({ database, broker, coordination }).kind).toBe('relay')
  expect(
    inspect(coordination, { depth: null, showHidden: true }) + JSON.stringify(coordination),
  ).not.toContain('hidden')
})
