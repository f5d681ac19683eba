import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { Stage, type Actor } from '../crash/stage.ts'
import { crashBackend } from '../disaster/load.ts'
import { createLastingDatabase, startServer } from '../support/replication.ts'

/**
 * A relay's move from the outbox into an inbox does not wait for the disk. The server is killed again and again while such moves are
 * nowhere but in its memory: each has to be lost as a whole, and then its messages are back in the outbox, in their order.
 */
const kills = Number(process.env['KILLS'] ?? 100)

let server: Awaited<ReturnType<typeof startServer>>
let stage: Stage | undefined
beforeAll(async () => {
  // So that what does not wait for the disk does not get there by itself.
  server = await startServer([
    'wal_writer_delay=10s',
    'wal_writer_flush_after=1GB',
    'bgwriter_lru_maxpages=0',
  ])
})
afterEach(() => stage?.close())
afterAll(() => server.stop())

/** Ids that a relay has told to be sent, and when first. */
function told(relays: readonly Actor[]): Map<string, number> {
  const first = new Map<string, number>()
  for (const { events } of relays)
    for (const event of events)
      if (event.type === 'sent')
        for (const id of event.ids) first.set(id, Math.min(event.at, first.get(id) ?? Infinity))
  return first
}

test(`${kills} kills of the server lose moves, and no message`, async () => {
  const staged = (stage = await Stage.open(
    { kind: 'postgres' },
    { database: await createLastingDatabase(server.url) },
  ))
  const receiver = staged.start({ role: 'receiver' })
  await receiver.started
  const relays = [1, 2].map(() => staged.start({ role: 'relay' }))
  const claimers = [1, 2].map(() => staged.start({ role: 'claimer', handleMs: 5 }))
  const workers = [receiver, ...relays, ...claimers]
  await Promise.all(workers.map(({ started }) => started))

  const downs: number[] = []
  for (let round = 0; round < kills; round++) {
    const keys = Array.from({ length: 100 }, (_, n) =>
      n % 4 === 0 ? null : `k${Math.floor(Math.random() * 20)}`,
    )
    const before = told(relays)
    const moved = Promise.any(
      relays.map((relay) => relay.next('sent', ({ ids }) => ids.some((id) => !before.has(id)))),
    )
    await staged.publish(keys)
    await moved
    // Now in the middle of the moves, now when some of what was moved has been handled.
    await new Promise((resolve) => setTimeout(resolve, (round % 4) * 4))
    downs.push(Date.now())
    // The server, or one of its processes, after which it begins anew without a restart.
    if (round % 3 === 2) await crashBackend(staged.database)
    else {
      await server.kill('SIGQUIT')
      await server.start()
    }
    await staged.until(`select count(*) >= ${round * 50} as done from effects`)
  }
  await staged.drained()

  expect(await staged.faults()).toEqual([])
  // Who was told to be sent before a crash, and was received for good only after it.
  const seen = await staged.database.query<{ id: string; at: number }>(
    `select id, extract(epoch from seen_at)::float8 * 1000 as at from twinbox.seen`,
  )
  const first = told(relays)
  const lostBy = new Map<number, number>()
  for (const { id, at } of seen) {
    const down = downs.find((moment) => first.get(id)! <= moment && at > moment)
    if (down !== undefined) lostBy.set(down, (lostBy.get(down) ?? 0) + 1)
  }
  const lost = [...lostBy.values()].reduce((sum, count) => sum + count, 0)
  process.stdout.write(
    `${kills} kills, ${seen.length} messages: ${lost} moves of messages lost in ${lostBy.size} crashes, 0 messages lost\n`,
  )
  expect(seen).toHaveLength(kills * 100)
  // Or this would be no test.
  expect(lost).toBeGreaterThan(0)
  for (const worker of workers) expect(await worker.end()).toBe(0)
})
