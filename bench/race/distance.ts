import { connect, createServer, type Socket } from 'node:net'
import { portOf } from '../../proof/stage/proxy.ts'

/**
 * A network in which everything takes its time, and always the same: the proxy of the tests shakes it by a third. What goes to
 * the server is late by the whole round trip, what comes back by nothing: a timer is late itself, so one instead of two.
 *
 * @returns the port under which the server is so far away
 */
export async function startDistance(
  target: { readonly host: string; readonly port: number },
  roundTripMs: number,
): Promise<number> {
  const server = createServer((client) => {
    const upstream = connect(target)
    join(client, upstream, roundTripMs)
    join(upstream, client, 0)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return portOf(server)
}

function join(from: Socket, to: Socket, ms: number): void {
  from.setNoDelay(true)
  from.on('error', () => {})
  from.on('close', () => to.destroy())
  if (ms === 0) {
    from.on('data', (chunk: Buffer) => void to.write(chunk))
    return
  }
  const late: { readonly due: number; readonly chunk: Buffer }[] = []
  const deliver = (): void => {
    while (late[0] !== undefined && late[0].due <= performance.now()) to.write(late.shift()!.chunk)
    if (late[0] !== undefined) setTimeout(deliver, Math.ceil(late[0].due - performance.now()))
  }
  from.on('data', (chunk: Buffer) => {
    late.push({ due: performance.now() + ms, chunk })
    if (late.length === 1) setTimeout(deliver, ms)
  })
}
