import { readdirSync, readFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'

/** The words of ARCHITECTURE.md: at most thirty concepts, in use everywhere, and no second word for one of them. */

const root = resolve(import.meta.dirname, '..')
const read = (file: string): string => readFileSync(join(root, file), 'utf8')
const filesOf = (folder: string): string[] =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(ts|sql|md)$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))

/** `inFlight`, `in_flight`, `InFlight` and `in-flight` are the same words. */
const plain = (text: string): string =>
  text
    .replaceAll(/(?<=[a-z])(?=[A-Z])/g, ' ')
    .replaceAll(/[_-]/g, ' ')
    .toLowerCase()
const listed = (cell: string): string[] => cell.split(',').flatMap((word) => word.trim() || [])

const glossary = read('ARCHITECTURE.md').split('## Words')[1]!.split('\n## ')[0]!
const rows = [...glossary.matchAll(/^\| ([^|]+) \| ([^|]+) \| ([^|]*) \|$/gm)]
  .map(([, words, meaning, not]) => ({ words: listed(words!), meaning: meaning!, not: listed(not!) }))
  .filter(({ words }) => words[0] !== 'word' && !words[0]!.startsWith('-'))
const terms = rows.flatMap(({ words, meaning }) => [
  ...words,
  ...[...meaning.matchAll(/\*\*(\w+)\*\*/g)].map(([, word]) => word!),
])

const sources = [...filesOf('src'), ...filesOf('migrations')]
/** An adapter speaks as its broker does. Of other projects one speaks as they do. */
const foreign = /^src\/brokers\/(rabbitmq|kafka|zeromq)|^src\/membership\/zookeeper|^docs\/alternatives\.md$/
const everything = [
  ...sources,
  ...['proof', 'docs', 'examples'].flatMap(filesOf),
  ...['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', 'CHANGELOG.md'],
].filter((file) => !foreign.test(file))

describe('the glossary', () => {
  test('has at most thirty concepts', () => {
    expect(rows.length).toBeGreaterThan(20)
    expect(rows.length).toBeLessThanOrEqual(30)
    expect(new Set(terms).size).toBe(terms.length)
  })

  test.each(terms)('%s is a word of the source', (term) => {
    const word = new RegExp(`\\b${plain(term)}`)
    expect(sources.filter((file) => word.test(plain(read(file)))).length).toBeGreaterThan(1)
  })

  test.each(rows.flatMap(({ words, not }) => not.map((word) => [word, words[0]!] as const)))(
    'nobody says %s for %s',
    (word) => {
      // Mathematics has a floor of its own, in JavaScript and in SQL, and a stream of the platform is filled in its own words.
      const pattern = new RegExp(`(?<!math\\.|controller\\.)\\b${plain(word)}(s|e?d)?\\b(?!\\(random\\(\\))`)
      const found = everything.filter((file) => {
        const text = file === 'ARCHITECTURE.md' ? read(file).replace(glossary, '') : read(file)
        return pattern.test(plain(text))
      })
      expect(found).toEqual([])
      expect(pattern.test(`a ${plain(word)} of ours`)).toBe(true)
      expect(pattern.test(`this.#${plain(word)}(ours)`)).toBe(true)
    },
  )

  /** What the core is made of is called by these words, or by one that programmers know without us. */
  test('names the classes of the core', () => {
    const known = [
      ...[
        'Abort',
        'Conflict',
        'Dispatcher',
        'Gathering',
        'Interrupted',
        'Interruptions',
        'Polling',
        'Session',
      ],
      ...['Sleep', 'Ticks', 'Transactions', 'Watchdog'],
      // Of one file or two, where their prologues say what they are.
      ...[
        'Circle',
        'Failures',
        'Flood',
        'Flow',
        'Heartbeat',
        'HotKeys',
        'Intake',
        'Line',
        'Marks',
        'Membership',
        'Payloads',
        'Presence',
        'Retries',
        'Sightings',
        'Stuck',
        'Watch',
        'Loops',
        'Turns',
        'Registration',
        'Succession',
      ],
    ]
    const core = /^src\/(outbox|relay|receiver|claimer|lanes|membership|upkeep)\//
    const classes = sources
      .filter((file) => core.test(file) && !foreign.test(file))
      .flatMap((file) => [...read(file).matchAll(/^export class (\w+)/gm)].map(([, name]) => name!))
    const stems = terms.map((term) => plain(term).replace(/e$/, ''))
    const strange = classes.filter(
      (name) => !known.includes(name) && !stems.some((stem) => plain(name).includes(stem)),
    )
    expect(strange).toEqual([])
    expect(known.filter((name) => !classes.includes(name))).toEqual([])
    expect(classes.length).toBeGreaterThan(20)
  })
})
