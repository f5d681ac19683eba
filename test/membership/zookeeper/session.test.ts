import { setTimeout } from 'node:timers/promises'
// @ts-expect-error It has no types.
import library from 'node-zookeeper-client'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import type { Coordination, Entrant, SignOfLife } from '../../../src/membership/coordination.ts'
import { loadLibrary } from '../../../src/membership/zookeeper/client.ts'
import { zookeeper } from '../../../src/membership/zookeeper/zookeeper.ts'
import { consumer, database, events, startClaimer, useInbox } from '../../support/inbox.ts'
import { describeWith } from '../../support/require.ts'
import { findZookeeper, type Ensemble } from '../../support/servers/zookeeper.ts'

/** The client of somebody else, who knows nothing of us. */
interface Stranger {
  once(state: 'connected', hear: () => void): void
  connect(): void
  close(): void
  addAuthInfo(scheme: string, auth: Buffer): void
  getChildren(path: string, answer: (error: Error | null, names: string[]) => void): void
  remove(path: string, answer: (error: Error | null) => void): void
}

describeWith('zookeeper', await findZookeeper(), 'a session', (found) => {
  let ensemble: Ensemble
  let chroots = 0
  beforeAll(async () => {
    await loadLibrary()
    ensemble = await found.start(1)
  })
  afterAll(() => ensemble.stop())
  useInbox()

  const open = (options: { chroot?: string; auth?: string } = {}): Coordination =>
    zookeeper({ servers: ensemble.servers, sessionTimeoutMs: 3000, ...options })
  const someChroot = (): string => `/test${chroots++}`

  interface Entry {
    readonly sign: SignOfLife
    readonly told: string[]
    until(word: string, count?: number): Promise<void>
  }

  function enter(coordination: Coordination, workerId: number): Entry {
    const told: string[] = []
    const waiting = new Set<() => void>()
    const hear = (word: string): void => {
      told.push(word)
      for (const look of waiting) look()
    }
    const entrant: Entrant = { database: 'a/b', schema: 'twinbox', kind: 'claimer', consumer: '..', workerId }
    const sign = coordination.enter(entrant, {
      onGiven: () => hear('given'),
      onAway: (error) => hear(`away: ${String(error)}`),
      onEnded: (error) => hear(`ended: ${String(error)}`),
      onNews: () => hear('news'),
    })
    onTestFinished(() => sign.leave())
    const until = (word: string, count = 1): Promise<void> =>
      new Promise((resolve) => {
        const look = (): void => {
          if (told.filter((one) => one.includes(word)).length < count) return
          waiting.delete(look)
          resolve()
        }
        waiting.add(look)
        look()
      })
    return { sign, told, until }
  }

  async function stranger(auth?: string): Promise<Stranger> {
    const client = (library as { createClient(servers: string): Stranger }).createClient(ensemble.servers)
    if (auth !== undefined) client.addAuthInfo('digest', Buffer.from(auth))
    await new Promise<void>((connected) => {
      client.once('connected', connected)
      client.connect()
    })
    onTestFinished(() => client.close())
    return client
  }
  const childrenOf = (client: Stranger, path: string): Promise<string[]> =>
    new Promise((seen) => {
      client.getChildren(path, (_, children) => seen(children ?? []))
    })
  const folder = (chroot: string): string => `${chroot}/a%2Fb/twinbox/claimer/_..`
  const remove = async (client: Stranger, chroot: string, workerId: number): Promise<Error | null> => {
    const names = await childrenOf(client, folder(chroot))
    const name = names.find((one) => one.startsWith(`${workerId}-`)) ?? `${workerId}-`
    return new Promise((answer) => client.remove(`${folder(chroot)}/${name}`, answer))
  }

  test('who comes is seen, who leaves is missed at once, and nobody is who looks elsewhere', async () => {
    const chroot = someChroot()
    const [one, two] = [1, 2].map((id) => enter(open({ chroot }), id)) as [Entry, Entry]
    await Promise.all([one.until('given'), two.until('given')])
    const text = two.sign.text!
    expect(text).toMatch(/^[0-9a-f-]{36}\/2-[0-9a-f]{16}$/)
    // Whatever it had seen before, it is asked.
    expect(await one.sign.confirms(text)).toBe(false)
    expect(one.sign.misses(text)).toBe(false)

    const far = enter(open({ chroot: someChroot() }), 3)
    await far.until('given')
    expect([far.sign.misses(text), await far.sign.confirms(text)]).toEqual([false, false])

    const news = one.told.filter((word) => word === 'news').length
    await two.sign.leave()
    await one.until('news', news + 1)
    expect([one.sign.misses(text), await one.sign.confirms(text)]).toEqual([true, true])
    expect([far.sign.misses(text), await far.sign.confirms(text)]).toEqual([false, false])
    expect(one.told.filter((word) => /ended|away/.test(word))).toEqual([])
  })

  test('what one creates who signs in is nobody else’s to change, and workers need the same', async () => {
    const chroot = someChroot()
    const auth = 'me:secret'
    const [one, two] = [1, 2].map((id) => enter(open({ chroot, auth }), id)) as [Entry, Entry]
    await Promise.all([one.until('given'), two.until('given')])
    const other = enter(open({ chroot, auth: 'you:secret' }), 3)
    await other.until('ended')
    expect(other.told).toEqual([expect.stringMatching(/^ended: .*ZooKeeper: .*NO_AUTH/)])
    expect(await remove(await stranger(), chroot, 1)).toMatchObject({ name: 'NO_AUTH' })
    expect(await remove(await stranger(auth), chroot, 1)).toBeNull()
    await one.until('ended: ')
    expect(one.told.at(-1)).toContain('somebody has deleted the node of this worker')
    expect(one.sign.text).toBeNull()
  })

  test('a worker whose session ends while others could judge by it comes back under a new id', async () => {
    const chroot = someChroot()
    const claimer = await startClaimer({ '#': () => {} }, { coordination: open({ chroot }) })
    const { id } = claimer
    const { sessionMs } = await events.next('coordination_up')
    expect(sessionMs).toBe(3000)
    const [row] = await signOf(id!)
    const [place, name] = row!.sign.split('/')
    expect(name).toMatch(new RegExp(`^${id}-[0-9a-f]{16}$`))
    const client = await stranger()
    const path = `${chroot}/${new URL(database.url).pathname.slice(1)}/twinbox/claimer/${consumer}/${name}`
    expect(await new Promise((answer) => client.remove(path, answer))).toBeNull()
    await events.next('coordination_down')
    await events.next('lease_lost', ({ reason }) => reason.includes('somebody has deleted the node'))
    await events.next('coordination_up', ({ workerId }) => workerId !== id)
    expect(claimer.id).toBeGreaterThan(id!)
    const [after] = await signOf(claimer.id!)
    expect(after!.sign).toMatch(new RegExp(`^${place}/${claimer.id}-`))
  })

  test('one that is left while it connects hurts nobody, and leaves nothing behind', async () => {
    const chroot = someChroot()
    const witness = enter(open({ chroot }), 1)
    await witness.until('given')
    // An error that nobody can catch would end the process, and this run.
    await Promise.all(
      Array.from({ length: 40 }, async (_, n) => {
        const { sign } = enter(open({ chroot }), n + 2)
        await setTimeout(n)
        await sign.leave()
      }),
    )
    const client = await stranger()
    for (;;) {
      const names = await childrenOf(client, folder(chroot))
      if (names.length === 1) break
    }
    expect(witness.told.filter((word) => /ended|away/.test(word))).toEqual([])
  })

  test('a worker starts without the servers, says so, and works', async () => {
    const coordination = zookeeper({ servers: '127.0.0.1:1', sessionTimeoutMs: 1000 })
    const claimer = await startClaimer({ '#': () => {} }, { coordination })
    const { error } = await events.next('coordination_down')
    expect(String(error)).toContain('no server has answered')
    await events.next('lanes_taken')
    await claimer.stop()
    expect(events.of('coordination_down')).toHaveLength(1)
    expect(events.of('trouble')).toEqual([])
  })

  /** What its row says, once it says something. */
  async function signOf(id: number): Promise<{ sign: string }[]> {
    for (;;) {
      const rows = await database.query<{ sign: string | null }>(
        'select sign from twinbox.worker where id = $1',
        [id],
      )
      if (rows[0]?.sign != null) return rows as { sign: string }[]
    }
  }
})
