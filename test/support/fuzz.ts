import fc from 'fast-check'

/** How many deliveries a fuzz test makes up. CI takes the default; `TWINBOX_TEST_FUZZ=100000` is for a long run. */
export const fuzzDeliveries = Number(process.env['TWINBOX_TEST_FUZZ'] ?? 2000)

/** Printed with each failure; given again, it makes up the same. */
export const fuzzSeed = Number(process.env['TWINBOX_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))

/**
 * The deliveries, so many at a time. 100,000 made up at once would keep the process busy for longer than a broker waits for
 * a sign of life.
 */
export function* fuzzed<Value>(arbitrary: fc.Arbitrary<Value>, size: number): Generator<Value[]> {
  for (let from = 0; from < fuzzDeliveries; from += size)
    yield fc.sample(arbitrary, { numRuns: Math.min(size, fuzzDeliveries - from), seed: fuzzSeed + from })
}

/** Any text, those included that are none: with a NUL, with half a character, long. */
export const anyText = (maxLength = 300): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: 4, arbitrary: fc.string({ maxLength: 20 }) },
    { weight: 2, arbitrary: fc.string({ unit: 'binary', maxLength }) },
    fc
      .array(fc.constantFrom('\0', '\ud800', '\udc00', 'a', '\x1e', '"', '{', ','), { maxLength: 20 })
      .map((parts) => parts.join('')),
    fc.constantFrom(
      '',
      'null',
      '__proto__',
      'toString',
      'infinity',
      '-005000-01-01T00:00:00Z',
      '+275760-09-14T00:00:00Z',
    ),
  )

/** Any bytes, those included that are JSON, or almost. */
export const anyBody: fc.Arbitrary<Uint8Array> = fc.oneof(
  { weight: 4, arbitrary: fc.uint8Array({ maxLength: 300 }) },
  { weight: 4, arbitrary: fc.json().map((text) => Buffer.from(text)) },
  anyText().map((text) => Buffer.from(JSON.stringify(text))),
  fc
    .tuple(fc.constantFrom('[', '{"a":', '[{"":'), fc.nat(5000))
    .map(([open, depth]) => Buffer.from(open.repeat(depth))),
  fc.nat(5000).map((depth) => Buffer.from(`${'['.repeat(depth)}${']'.repeat(depth)}`)),
  // Large ones of few choices: to choose each byte takes longer than to receive them.
  fc
    .tuple(fc.nat(100_000), fc.uint8Array({ minLength: 1, maxLength: 5 }))
    .map(([size, fill]) => Buffer.alloc(size, fill)),
)
