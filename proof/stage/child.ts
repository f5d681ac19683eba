import { sentence } from '../../src/terminal/failure.ts'
import { remark } from '../../src/terminal/output.ts'

/** Tells the parent, if it is still there. */
export function say(told: object): void {
  if (process.connected) process.send!(told, () => {})
}

/** Ends this process by an error, in one line of standard error. */
export function fail(error: unknown): never {
  remark(sentence(error))
  process.exit(1)
}

/** Closes what is open, or ends by the error with which that failed. */
export async function close(stop: () => Promise<void>): Promise<void> {
  await stop().catch(fail)
}

/**
 * Does what the parent says until it is gone, whatever became of it. An order that fails ends the process. In the end
 * `abandoned` is asked: who has files to remove does that first, the others have nothing to lose.
 */
export function obeyParent<Order>(obey: (order: Order) => unknown, abandoned: () => void): void {
  process.on('message', (order: Order) => {
    Promise.resolve(order).then(obey).catch(fail)
  })
  process.on('disconnect', abandoned)
}

/** Lets the event loop of this process stand still. */
export function stall(ms: number): void {
  const until = performance.now() + ms
  while (performance.now() < until);
}
