import { expect, test } from 'vitest'
import { describeError } from '../../src/base/errors.ts'
import { limits } from '../../src/base/options.ts'
import { checkTopicPattern, patternsMeet, topicMatches } from '../../src/message/message.ts'
import { createOutbox } from '../../src/index.ts'

/**
 * Texts from outside that make a matcher try all ways: for one that does, none of these tests ever ends. 30 of `#` over a
 * hundred words are more than 10^24 ways.
 */

const words = (count: number, word: string): string => Array.from({ length: count }, () => word).join('.')
const most = Math.floor((limits.topicLength + 1) / 2)

test.each([
  ['as many # as a pattern holds', words(most, '#'), true],
  ['… and a word that is not there', `${words(most - 1, '#')}.b`, false],
  ['# and a word in turn', words(most / 2 - 1, '#.a'), true],
  ['… which end with another one', `${words(most / 2 - 2, '#.a')}.#.b`, false],
  ['# and * in turn', `${words(most / 2 - 2, '#.*')}.b`, false],
])('a topic is matched with %s', (_, pattern, matches) => {
  expect(() => checkTopicPattern(pattern)).not.toThrow()
  expect(topicMatches(pattern, words(most, 'a'))).toBe(matches)
})

test('what matches is what all ways together would find', () => {
  const alphabet = ['a', 'b', '*', '#']
  const upTo = (length: number, from: readonly string[]): string[][] =>
    length === 0
      ? [[]]
      : [[], ...upTo(length - 1, from).flatMap((rest) => from.map((word) => [word, ...rest]))]
  const allWays = (pattern: readonly string[], topic: readonly string[]): boolean => {
    const [part, ...parts] = pattern
    if (part === undefined) return topic.length === 0
    if (part === '#') return allWays(parts, topic) || (topic.length > 0 && allWays(pattern, topic.slice(1)))
    return topic.length > 0 && (part === '*' || part === topic[0]) && allWays(parts, topic.slice(1))
  }
  const lists = (from: readonly string[], length: number): string[][] =>
    upTo(length, from).filter((list) => list.length > 0)
  const wrong = lists(alphabet, 3).flatMap((pattern) =>
    lists(['a', 'b'], 3)
      .filter((topic) => topicMatches(pattern.join('.'), topic.join('.')) !== allWays(pattern, topic))
      .map((topic) => `${pattern.join('.')} ${topic.join('.')}`),
  )
  expect(wrong).toEqual([])
})

const long = 1_000_000
test.each([
  ['topic', { topic: `${'a.'.repeat(long)}!` }],
  ['key', { key: 'k'.repeat(long) }],
  ['dedupe key', { dedupeKey: 'k'.repeat(long) }],
  ['content type', { payload: new Uint8Array(1), contentType: `a/b${'; '.repeat(long)}\n` }],
  ['content type of parts', { payload: new Uint8Array(1), contentType: `a/b${';a=b '.repeat(long)}\n` }],
  ['header name', { headers: { [`${'a-'.repeat(long)} `]: 'x' } }],
  ['header value', { headers: { a: `${'x '.repeat(long)}\r\n` } }],
])('a %s of a megabyte and more is refused at once', async (_, more) => {
  const queries: unknown[] = []
  const transaction = { query: async (text: string) => (queries.push(text), { rows: [] }) }
  await expect(
    createOutbox({ maxPayloadBytes: 64 * 1024 * 1024 }).publish(transaction, {
      topic: 't',
      payload: 1,
      ...more,
    }),
  ).rejects.toMatchObject({ name: 'MessageError' })
  expect(queries).toEqual([])
})

test.each(['a://b:', 'postgres://u:', '://:@', 'password=', ':@'.repeat(3)])(
  'what is stored of an error of a megabyte of %s ends',
  (text) => {
    const described = JSON.stringify(describeError(new Error(text.repeat(long / text.length))))
    expect(described.length).toBeLessThan(long / 10)
  },
)

test('two patterns meet if some topic is taken by both, and only then', () => {
  const combinations = (from: readonly string[], longest: number): string[] =>
    Array.from(Array(longest).keys(), (index) => index + 1).flatMap((length) =>
      Array.from(Array(from.length ** length).keys(), (number) =>
        Array.from({ length }, (_, at) => from[Math.floor(number / from.length ** at) % from.length]!).join(
          '.',
        ),
      ),
    )
  const patterns = combinations(['a', 'b', '*', '#'], 3)
  // Longer than the words of two patterns, it could be shorter as well.
  const topics = combinations(['a', 'b'], 5)
  const taken = new Map(
    patterns.map((pattern) => [pattern, topics.filter((topic) => topicMatches(pattern, topic))]),
  )
  const wrong = patterns.flatMap((one) =>
    patterns
      .filter(
        (other) =>
          patternsMeet(one, other) !== taken.get(one)!.some((topic) => taken.get(other)!.includes(topic)),
      )
      .map((other) => [one, other]),
  )
  expect(wrong).toEqual([])
  const longest = Array(124).fill('#').join('.')
  expect(patternsMeet(longest, `${longest}.a`)).toBe(true)
})
