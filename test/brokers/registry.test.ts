import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { adapters, brokerNames } from '../../src/brokers/registry.ts'
import { everyBroker } from '../support/brokers.ts'
import { describeWith } from '../support/require.ts'
import { openContractTrial, trialContract } from './trial.ts'

/** A broker is a folder and a line in the registry: what else depends on its name is compared with these here. */

describe('the registry', () => {
  test('has every folder of src/brokers', () => {
    const folders = readdirSync('src/brokers', { withFileTypes: true }).filter((entry) => entry.isDirectory())
    expect(brokerNames.toSorted()).toEqual(folders.map(({ name }) => name).toSorted())
  })

  test.each(adapters)(
    '$name is exported, its library is optional, and the README has it',
    async (adapter) => {
      const { name, peer, otherPeers = [], load } = adapter
      const { exports, peerDependencies, peerDependenciesMeta } = JSON.parse(
        readFileSync('package.json', 'utf8'),
      ) as Record<string, Record<string, unknown>>
      const file = `./dist/src/brokers/${name}/${name}`
      expect(exports![`./${name}`]).toEqual({ types: `${file}.d.ts`, default: `${file}.js` })
      const peers = [...(peer === null ? [] : [peer]), ...otherPeers.map((other) => other.peer)]
      for (const library of peers) {
        expect(peerDependencies).toHaveProperty([library])
        expect(peerDependenciesMeta).toHaveProperty([library, 'optional'], true)
      }
      expect(await load()).toHaveProperty(name, expect.any(Function))
      const readme = readFileSync('README.md', 'utf8')
      expect(readme).toContain(`| \`twinbox/${name}\``)
      for (const library of peers) expect(readme).toContain(`\`npm install ${library}\``)
    },
  )
})

for (const { adapter, found } of await everyBroker()) {
  // Nothing is delivered by it: its `send` is the receiver as well. What it promises stands in postgres.test.ts.
  if (adapter.name === 'postgres') continue
  const trial = await openContractTrial(adapter, found)
  describeWith(adapter.name, found, 'a broker with default options', () =>
    trialContract(adapter.name, trial!),
  )
}
