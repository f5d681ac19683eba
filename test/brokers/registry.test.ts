import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { adapters, brokerNames } from '../../src/brokers/registry.ts'
import { randomBytes } from 'node:crypto'
import { everyBroker } from '../support/brokers.ts'
import { describeWith, isMissing } from '../support/require.ts'
import { brokerContract } from './contract.ts'

/** A broker is a folder and a line in the registry: what else depends on its name is compared with these here. */

describe('the registry', () => {
  test('has every folder of src/brokers', () => {
    const folders = readdirSync('src/brokers', { withFileTypes: true }).filter((entry) => entry.isDirectory())
    expect(brokerNames.toSorted()).toEqual(folders.map(({ name }) => name).toSorted())
  })

  test.each(adapters)(
    '$name is exported, its library is optional, and the README has it',
    async (adapter) => {
      const { name, peer, load } = adapter
      const { exports, peerDependencies, peerDependenciesMeta } = JSON.parse(
        readFileSync('package.json', 'utf8'),
      ) as Record<string, Record<string, unknown>>
      const file = `./dist/src/brokers/${name}/${name}`
      expect(exports![`./${name}`]).toEqual({ types: `${file}.d.ts`, default: `${file}.js` })
      if (peer !== null) {
        expect(peerDependencies).toHaveProperty(peer)
        expect(peerDependenciesMeta).toHaveProperty([peer, 'optional'], true)
      }
      expect(await load()).toHaveProperty(name, expect.any(Function))
      const readme = readFileSync('README.md', 'utf8')
      expect(readme).toContain(`| \`twinbox/${name}\``)
      if (peer !== null) expect(readme).toContain(`\`npm install ${peer}\``)
    },
  )
})

for (const { adapter, found } of await everyBroker()) {
  // Nothing is delivered by it: its `send` is the receiver as well. What it promises stands in postgres.test.ts.
  if (adapter.name === 'postgres') continue
  const name = `twinbox.contract.${randomBytes(5).toString('hex')}`
  const place = { name, schema: 'twinbox', database: () => 'postgres://127.0.0.1:1/none' }
  const trial = isMissing(found) ? null : await adapter.openTrial({ ...place, ...found })
  describeWith(adapter.name, found, 'a broker with default options', () => {
    const { open, nowhere, clear } = trial!
    const consumers = new Set<string>()
    let topics = 0
    afterAll(() => clear([...consumers]))
    brokerContract(adapter.name, {
      make: () => {
        const broker = open()
        return {
          ...broker,
          subscribe: (options, onBatch) => {
            consumers.add(options.consumer)
            return broker.subscribe(options, onBatch)
          },
        }
      },
      newTopic: () => `${name}.topic.${++topics}`,
      unroutableTopic: nowhere === null ? null : () => nowhere,
      // Only whoever knows the broker has one with a low limit.
      tooLarge: null,
      timeoutMs: 40_000,
    })
  })
}
