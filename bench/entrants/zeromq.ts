import { Dealer, Router } from 'zeromq'
import { toFrames } from '../../src/brokers/zeromq/frames.ts'
import type { Place, Stop, Task } from '../race/entrant.ts'
import type { Tally } from '../race/tally.ts'
import { outgoing } from './brokers.ts'

/** As many on the way as our adapter allows. */
const windowMessages = 1000

/** The package zeromq alone: what a dealer sends, a router acknowledges by its id, in one process. */
export async function bareZeromq({ process }: Place, task: Task, tally: Tally): Promise<Stop> {
  const router = new Router({ linger: 0, receiveHighWaterMark: 0, sendHighWaterMark: 0 })
  const dealer = new Dealer({ linger: 0, sendHighWaterMark: 0, receiveHighWaterMark: 0 })
  await router.bind('tcp://127.0.0.1:*')
  dealer.connect(router.lastEndpoint!)
  const acknowledge = async (): Promise<void> => {
    for await (const [peer, id] of router) await router.send([peer!, id!, 'ok'])
  }
  const answered = async (waiting: Map<string, number>, wake: () => void): Promise<void> => {
    for await (const [id] of dealer) {
      const name = id!.toString()
      tally.note(waiting.get(name)!)
      waiting.delete(name)
      wake()
    }
  }
  const waiting = new Map<string, number>()
  let wake = (): void => {}
  const loops = [acknowledge(), answered(waiting, () => wake())]
  const until = async (most: number): Promise<void> => {
    while (waiting.size > most) await new Promise<void>((resolve) => (wake = resolve))
  }
  for (const batch of outgoing(task, process)) {
    for (const { n, message } of batch) {
      waiting.set(message.id, n)
      await dealer.send([...toFrames(message, 'bench')])
      await until(windowMessages - 1)
    }
  }
  await until(0)
  dealer.close()
  router.close()
  await Promise.all(loops)
  return async () => {}
}
