import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Address, Trial, TrialPlace } from '../adapter.ts'
import type { Broker } from '../broker.ts'
import type { Consumers } from './addresses.ts'
import { zeromq } from './zeromq.ts'

/** So many addresses are known before anybody listens, for whoever wants to stand in the way to them. */
const slots = 3
const host = '127.0.0.1'

/**
 * Receivers on this machine, each at a port of its own. Since no broker knows them, they are listed in a folder of the trial's name,
 * a file for each: what a registry of services is for others.
 */
export function openTrial({ name, via = [] }: TrialPlace): Trial {
  const folder = join(tmpdir(), `twinbox-zeromq-${name}`)
  const list = async (): Promise<Consumers> => {
    const found: Record<string, { addresses: string[]; topics: string[] }> = {}
    for (const file of await readdir(folder).catch(() => [])) {
      const [, consumer, port] = /^(.+)@(\d+)$/.exec(file) ?? []
      if (consumer === undefined) continue
      const text = await readFile(join(folder, file), 'utf8').catch(() => '')
      // It has gone meanwhile.
      if (text === '') continue
      const one = (found[consumer] ??= { addresses: [], topics: JSON.parse(text) as string[] })
      const detour = via.find((each) => each.port === Number(port))
      one.addresses.push(`tcp://${host}:${detour?.via ?? port}`)
    }
    return found
  }
  const open = (): Broker => {
    const topicsOf = new Map<string, readonly string[]>()
    const broker = zeromq({
      consumers: list,
      refreshMs: 100,
      bind: async (consumer) => {
        const port = await choosePort(folder)
        await mkdir(folder, { recursive: true })
        // It stays when the receiver goes: a consumer that is away is one all the same.
        const file = join(folder, `${consumer}@${port}`)
        await writeFile(`${file}.${process.pid}`, JSON.stringify(topicsOf.get(consumer)))
        await rename(`${file}.${process.pid}`, file)
        return `tcp://${host}:${port}`
      },
    })
    return {
      ...broker,
      subscribe: (options, onBatch) => {
        topicsOf.set(options.consumer, options.topics)
        return broker.subscribe(options, onBatch)
      },
    }
  }
  return {
    open,
    receiving: { topics: ['#'] },
    nowhere: `${name}.nowhere`,
    locate: async () => {
      const ports: number[] = []
      while (ports.length < slots) ports.push(await freePort())
      await mkdir(folder, { recursive: true })
      await writeFile(join(folder, 'slots'), JSON.stringify(ports))
      return ports.map((port): Address => ({ host, port }))
    },
    clear: () => rm(folder, { recursive: true, force: true }),
  }
}

/** One of those that were set apart, or any if there are none or all are in use. */
async function choosePort(folder: string): Promise<number> {
  const text = await readFile(join(folder, 'slots'), 'utf8').catch(() => '[]')
  for (const port of JSON.parse(text) as number[]) if ((await freePort(port).catch(() => 0)) > 0) return port
  return freePort()
}

/** A port that nobody listens on now. */
function freePort(wanted = 0): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(wanted, host, () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })
}
