/** Of the shop: a stand-in for a payment provider. It charges once per idempotency key, as real ones do, and knows no order. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'

/**
 * What it has done, in order. An order is what whoever asks calls it.
 * @typedef {{ what: string, order: string, pid: number }} Entry
 */

/** @param {(entry: Entry) => void} beforeAnswer */
export async function openProvider(beforeAnswer) {
  /** @type {Entry[]} */
  const ledger = []
  const answers = new Map()
  const counts = { requests: 0 }
  /** @param {import('node:http').IncomingMessage} request @returns {Promise<[status: number, body: string]>} */
  async function answer(request) {
    const { order, card } = JSON.parse(await text(request))
    const key = request.headers['idempotency-key']
    const entry = { what: String(request.url).slice(1), order, pid: Number(request.headers['x-pid']) }
    counts.requests++
    if (card === 'expired') return [402, 'declined']
    if (!answers.has(key)) answers.set(key, `${entry.what}-${ledger.push(entry)}`)
    beforeAnswer(entry)
    return [200, answers.get(key)]
  }
  const server = createServer((request, response) => {
    answer(request).then(
      ([status, body]) => response.writeHead(status).end(body),
      (error) => response.writeHead(400).end(String(error)),
    )
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  return {
    url: `http://127.0.0.1:${port}`,
    ledger,
    counts,
    /** For so long nobody listens, and what was under way breaks off. @param {number} ms */
    async goDown(ms) {
      server.close().closeAllConnections()
      await sleep(ms)
      await once(server.listen(port, '127.0.0.1'), 'listening')
    },
  }
}
