import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { constants, gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { IncomingMessage } from '../../../src/brokers/broker.ts'
import { toIncoming } from '../../../src/brokers/kafka/records.ts'
import type { Allowance } from '../../../src/brokers/kafka/wire/allowance.ts'
import { Cursor, Malformed } from '../../../src/brokers/kafka/wire/cursor.ts'
import type { Stuck } from '../../../src/brokers/kafka/client.ts'
import { rewriteFetchResponse } from '../../../src/brokers/kafka/kafkajs/fetch.ts'
import { NoCodec, unpack, type Codecs } from '../../../src/brokers/kafka/wire/unpack.ts'
import { tombstone } from '../../../src/message/tombstone.ts'
import { missingPeer } from '../../../src/brokers/peer.ts'
import {
  batchOf,
  codecNumbers,
  decodeResponse,
  packers,
  responseOf,
  sealed,
  unpackers,
  withRecords,
  type Codec,
  type FetchedRecord,
  type TestRecord,
} from './bytes.ts'

/** What the guard makes of the bytes of a broker, as kafkajs and then the receiver see it. No server is needed. */

const mebibyte = 1024 * 1024

interface Seen {
  /** Of each partition. */
  readonly incoming: readonly (readonly IncomingMessage[])[]
  readonly records: readonly (readonly FetchedRecord[])[]
  readonly stuck: readonly Stuck[]
  readonly allowance: Allowance
}

interface Fetch {
  readonly from?: number
  readonly codecs?: Codecs
  readonly bytes?: number
  /** What the response calls the partitions' end. */
  readonly end?: number
  /** Of the connection, if this is not its first fetch. */
  readonly doubts?: Map<string, bigint>
}

async function fetched(
  partitions: readonly Buffer[],
  { from = 0, codecs = {}, bytes = mebibyte, end, doubts = new Map() }: Fetch = {},
): Promise<Seen> {
  const allowance = { codecs, unpackedBytesMax: bytes, objectBytes: bytes, used: false }
  const positions = new Map(partitions.map((_, partition) => [`t/${partition}`, BigInt(from)]))
  const stuck: Stuck[] = []
  const written = await rewriteFetchResponse(
    new Cursor(responseOf(partitions, end), 8),
    { version: 11, positions },
    allowance,
    { onStuck: (one) => stuck.push(one), doubts, lost: new Map() },
  )
  const records = await decodeResponse(Buffer.concat(written))
  const incoming = records.map((all, partition) =>
    all.filter(({ isControlRecord }) => !isControlRecord).map((record) => toIncoming('t', partition, record)),
  )
  return { incoming, records, stuck, allowance }
}

const text = (value: string): TestRecord => ({ key: Buffer.from('k'), value: Buffer.from(value) })
const bodies = (incoming: readonly IncomingMessage[]): string[] =>
  incoming.map(({ body, refused }) => (refused === undefined ? Buffer.from(body).toString() : '(refused)'))
const positions = (incoming: readonly IncomingMessage[]): number[] =>
  incoming.map(({ position }) => Number(position!.split('/')[2]))

/** Registered at kafkajs, as a user would. */
const codecsOf = (names: readonly (keyof typeof unpackers)[]): Codecs =>
  Object.fromEntries(
    names.map((name) => [
      codecNumbers[name],
      () => ({ decompress: async (bytes: Buffer) => unpackers[name](bytes) }),
    ]),
  )

describe('records that are as they should be', () => {
  it.each(['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const satisfies Codec[])(
    'arrive as they were sent, packed by %s',
    async (codec) => {
      const records: TestRecord[] = [
        { key: Buffer.from('ä'), value: Buffer.alloc(300, 'x'), headers: { 'content-type': 'a/b', n: 'v' } },
        { key: null, value: null },
        {
          value: Buffer.from('2'),
          headers: { h: [Buffer.from('first'), Buffer.from('last')], __proto__x: '' },
        },
      ]
      const batch = await batchOf(10, records, { codec })
      const { incoming, records: seen } = await fetched([batch], {
        codecs: codecsOf(['snappy', 'lz4', 'zstd']),
      })
      expect(incoming[0]).toMatchObject([
        { key: 'ä', body: records[0]!.value, contentType: 'a/b', headers: { n: 'v' }, position: 't/0/10' },
        { key: null, body: Buffer.alloc(0), contentType: tombstone.contentType, position: 't/0/11' },
        { key: null, body: Buffer.from('2'), headers: { h: 'last', __proto__x: '' }, position: 't/0/12' },
      ])
      expect(incoming[0]!.map(({ refused }) => refused)).toEqual([undefined, undefined, undefined])
      expect(seen[0]!.map(({ timestamp }) => timestamp)).toEqual(['1000000', '1000001', '1000002'])
    },
  )

  it.each(['snappy', 'lz4', 'zstd'] as const)(
    'are read as the Java client has packed them by %s, by the library that is installed',
    async (codec) => {
      // 40 records of 2 kB, each with a LongSerializer's key: kafka-clients 3.9.1 wrote them, and Kafka kept them like that.
      const written = JSON.parse(readFileSync(join(import.meta.dirname, 'java.json'), 'utf8')) as Record<
        Codec,
        string
      >
      const unimplemented = (): never => {
        throw new Error('not implemented')
      }
      for (const codecs of [{}, { [codecNumbers[codec]]: unimplemented }] as const) {
        const { incoming, stuck } = await fetched([Buffer.from(written[codec], 'base64')], { codecs })
        expect(stuck).toEqual([])
        expect(bodies(incoming[0]!)).toEqual(
          Array.from({ length: 40 }, (_, n) => 'a line of text. '.repeat(125) + n),
        )
        expect(new Set(incoming[0]!.map(({ key }) => key)).size).toBe(40)
        expect(incoming[0]![5]!.key).toBe('base64,AAAAAAAAAAU=')
      }
    },
  )

  it('begin where the fetch began, and end where the batch ended, also when compaction took its last records', async () => {
    const batch = await batchOf(0, [
      { ...text('a'), delta: 0 },
      { ...text('b'), delta: 4 },
      { ...text('c'), delta: 9 },
    ])
    const { incoming } = await fetched([batch], { from: 1 })
    expect(positions(incoming[0]!)).toEqual([4, 9])
    const compacted = sealed(Buffer.from(batch))
    compacted.writeInt32BE(99, 23)
    const { records } = await fetched([sealed(compacted), await batchOf(0, [])])
    expect(records[0]!.map(({ offset, isControlRecord }) => [offset, isControlRecord])).toEqual([
      ['0', false],
      ['4', false],
      ['9', false],
      ['99', true],
    ])
    expect(records[1]!.map(({ offset, isControlRecord }) => [offset, isControlRecord])).toEqual([['0', true]])
  })

  it('keep what kafkajs needs to leave out those of aborted transactions', async () => {
    const marker = await batchOf(5, [{ key: Buffer.from([0, 0, 0, 0]), value: Buffer.alloc(6) }], {
      attributes: 0x30,
    })
    const { records } = await fetched([
      Buffer.concat([await batchOf(4, [text('a')], { attributes: 0x10 }), marker]),
    ])
    expect(records[0]).toMatchObject([
      {
        offset: '4',
        key: null,
        isControlRecord: false,
        batchContext: { inTransaction: true, producerId: '-1' },
      },
      { offset: '5', key: Buffer.from([0, 0, 0, 0]), isControlRecord: true },
    ])
  })

  it('are handed over in parts where they would take too much memory, and none is missing or twice', async () => {
    const batch = await batchOf(
      0,
      Array.from({ length: 5000 }, (_, index) => text(String(index))),
      {
        codec: 'gzip',
      },
    )
    const seen: string[] = []
    let rounds = 0
    for (; seen.length < 5000; rounds++) {
      const { incoming } = await fetched([batch], { from: seen.length, bytes: mebibyte / 2 })
      seen.push(...bodies(incoming[0]!))
    }
    expect(seen).toEqual(Array.from({ length: 5000 }, (_, index) => String(index)))
    expect(rounds).toBeGreaterThan(3)
  })
})

describe('what is too much', () => {
  it.each([
    [
      '1,025 headers',
      Object.fromEntries(Array.from({ length: 1025 }, (_, index) => [`h${index}`, 'v'])),
      /1025 headers/,
    ],
    [
      '5,000 headers',
      Object.fromEntries(Array.from({ length: 5000 }, (_, index) => [`h${index}`, 'v'])),
      /5000 headers/,
    ],
    ['64 KiB of headers and a byte', { h: 'v'.repeat(64 * 1024) }, /65536 bytes/],
  ])(
    '%s: the record is refused, with its key and body, and its neighbours arrive',
    async (_, headers, reason) => {
      const { incoming } = await fetched([
        await batchOf(7, [text('a'), { ...text('b'), headers }, text('c')]),
      ])
      expect(bodies(incoming[0]!)).toEqual(['a', '(refused)', 'c'])
      expect(incoming[0]![1]).toMatchObject({ key: 'k', body: Buffer.from('b'), position: 't/0/8' })
      expect(incoming[0]![1]!.refused).toMatch(reason)
    },
  )

  it('1,024 headers and 64 KiB are not', async () => {
    const many = Object.fromEntries(Array.from({ length: 1024 }, (_, index) => [`h${index}`, 'v']))
    const large = { h: 'v'.repeat(64 * 1024 - 1) }
    const { incoming } = await fetched([
      await batchOf(0, [
        { ...text('a'), headers: many },
        { ...text('b'), headers: large },
      ]),
    ])
    expect(bodies(incoming[0]!)).toEqual(['a', 'b'])
    expect(Object.keys(incoming[0]![0]!.headers)).toHaveLength(1024)
  })

  it.each(['gzip', 'snappy', 'lz4', 'zstd'] as const)(
    'a batch in %s that unpacks to more than the budget is refused alone, and nothing is unpacked beyond it',
    async (codec) => {
      const large = await batchOf(3, [text('x'.repeat(2 * mebibyte))], { codec })
      const records = Buffer.concat([await batchOf(2, [text('a')]), large, await batchOf(4, [text('c')])])
      let called = 0
      const codecs = Object.fromEntries(
        [2, 3, 4].map((number) => [number, () => ({ decompress: () => called++ })]),
      )
      const { incoming } = await fetched([records], { codecs })
      expect(bodies(incoming[0]!)).toEqual(['a', '(refused)', 'c'])
      expect(positions(incoming[0]!)).toEqual([2, 3, 4])
      expect(incoming[0]![1]!.refused).toContain('from offset 3 on')
      expect(incoming[0]![1]!.refused).toContain(`more than ${mebibyte} bytes`)
      expect(called).toBe(0)
    },
  )

  it('large records come one after the other', async () => {
    const large = await batchOf(0, [text('x'.repeat(900_000)), text('y'.repeat(900_000))], { codec: 'gzip' })
    const { incoming } = await fetched([await batchOf(0, [text('a')]), large, large], { bytes: 2_000_000 })
    expect(incoming.map((one) => one.length)).toEqual([1, 2, 0])
    const then = await fetched([large, large], { bytes: 1_900_000, from: 1 })
    expect(then.incoming.map((one) => one.length)).toEqual([1, 1])
    const alone = await fetched([await batchOf(0, [text('x'.repeat(mebibyte))]), large], { bytes: 1000 })
    expect(alone.incoming.map((one) => one.length)).toEqual([1, 0])
  })

  it('a batch of millions of tiny records does not become millions of objects', async () => {
    const tiny = Buffer.from([12, 0, 0, 0, 1, 1, 0])
    const records = Buffer.alloc(tiny.length * 1_000_000, tiny)
    const batch = withRecords(
      await batchOf(0, [text('a')]),
      gzipSync(records, { level: constants.Z_BEST_SPEED }),
      1,
    )
    batch.writeInt32BE(999_999, 23)
    batch.writeInt32BE(1_000_000, 57)
    const { records: seen } = await fetched([sealed(batch)], { bytes: 8 * mebibyte })
    expect(seen[0]!.length).toBeLessThan(25_000)
    expect(seen[0]!.length).toBeGreaterThan(0)
  })
})

describe('what cannot be read', () => {
  it.each(['snappy', 'lz4', 'zstd'] as const)(
    'a batch in %s whose codec gives nothing waits; what is before it arrives, and so do the other partitions',
    async (codec) => {
      const packed = await batchOf(1, [text('b')], { codec })
      const before = await batchOf(0, [text('a')])
      for (const given of [undefined, 'b', null]) {
        const codecs: Codecs = { [codecNumbers[codec]]: () => ({ decompress: () => given }) }
        const first = await fetched([Buffer.concat([before, packed]), before], { codecs })
        expect(first.incoming.map(bodies)).toEqual([['a'], ['a']])
        expect(first.stuck).toEqual([])
        const then = await fetched([packed, await batchOf(1, [text('b')])], { from: 1, codecs })
        expect(then.incoming.map(bodies)).toEqual([[], ['b']])
        expect(then.stuck).toMatchObject([{ topic: 't', partition: 0, offset: 1n }])
        expect(then.stuck[0]!.error.message).toMatch(new RegExp(`codec for ${codec}.*gave no bytes`))
      }
      const later = await fetched([packed], { from: 1, codecs: codecsOf([codec]) })
      expect(bodies(later.incoming[0]!)).toEqual(['b'])
    },
  )

  it.each(['snappy', 'lz4', 'zstd'] as const)(
    'a batch in %s whose library is not there waits, and says what to install',
    async (codec) => {
      const packed = packers[codec](Buffer.from('records'))
      const absent = 'twinbox-no-such-codec'
      const load = (): Promise<never> =>
        Promise.reject(missingPeer(absent, new Error('ERR_MODULE_NOT_FOUND')))
      const failed = await unpack(packed, codecNumbers[codec], {}, mebibyte, load).catch(
        (thrown: unknown) => thrown,
      )
      expect(failed).toBeInstanceOf(NoCodec)
      expect(String(failed)).toMatch(new RegExp(`nothing here unpacks ${codec}.*npm install ${absent}`))
    },
  )

  it('zstd that asks for memory beyond measure is refused before anybody gives it', async () => {
    // A window of 3.75 TiB, and a content of 2^60 bytes.
    for (const head of ['28b52ffd00f8', '28b52ffde00000000000000010'])
      await expect(unpack(Buffer.from(`${head}010000`, 'hex'), 4, {}, mebibyte)).rejects.toThrow(Malformed)
  })

  it.each<[string, (batch: Buffer) => Buffer]>([
    ['a flipped bit', (batch) => ((batch[68]! ^= 4), batch)],
    ['an unknown format', (batch) => ((batch[16] = 3), batch)],
    ['an unknown compression', (batch) => withRecords(batch, batch.subarray(61), 6)],
    ['gzip that is none', (batch) => withRecords(batch, batch.subarray(61), 1)],
    ['a number of records that is negative', (batch) => (batch.writeInt32BE(-5, 57), sealed(batch))],
    ['a record that is longer than the batch', (batch) => ((batch[61] = 0x7e), sealed(batch))],
    ['a record with a negative length', (batch) => ((batch[61] = 0x09), sealed(batch))],
  ])('%s costs no more than its batch', async (_, damage) => {
    const damaged = damage(await batchOf(5, [text('x')]))
    const good = await batchOf(6, [text('good')])
    const { incoming } = await fetched([Buffer.concat([damaged, good]), good], { from: 5 })
    expect(incoming.map(bodies)).toEqual([['(refused)', 'good'], ['good']])
    expect(positions(incoming[0]!)).toEqual([5, 6])
    expect(incoming[0]![0]!.refused).toMatch(/from offset 5 on \(\d+ bytes\) cannot be read: [^.]*\.$/)
    // Alone it lets the position move on, too.
    const alone = await fetched([damaged], { from: 5 })
    expect(positions(alone.incoming[0]!)).toEqual([5])
  })

  it('a batch that came while the broker read is beyond the end that it speaks of: the next fetch brings it', async () => {
    for (const base of [5, 7]) {
      const sound = await batchOf(base, [text('a'), text('b')])
      const behind = await batchOf(base + 2, [text('c')])
      const doubts = new Map<string, bigint>()
      const first = await fetched([sound, await batchOf(4, [text('x')])], { from: 4, end: 5, doubts })
      expect(first.incoming.map(bodies)).toEqual([[], ['x']])
      expect(first.records[0]).toEqual([])
      const then = await fetched([Buffer.concat([sound, behind])], { from: 4, end: base + 2, doubts })
      expect(bodies(then.incoming[0]!)).toEqual(['a', 'b'])
      const last = await fetched([behind], { from: base + 2, end: base + 3, doubts })
      expect(bodies(last.incoming[0]!)).toEqual(['c'])
    }
  })

  it.each<[string, (batch: Buffer) => unknown]>([
    ['last', (batch) => (batch.writeInt32BE(2_000_000, 23), sealed(batch))],
    ['first', (batch) => batch.writeBigInt64BE(3_000_000n)],
  ])('a batch whose %s offset is still beyond the end is refused alone', async (_, damage) => {
    const damaged = await batchOf(5, [text('x')])
    damage(damaged)
    const batches = [Buffer.concat([damaged, await batchOf(6, [text('good')])]), damaged]
    const doubts = new Map<string, bigint>()
    const first = await fetched(batches, { from: 5, doubts })
    expect(first.records).toEqual([[], []])
    const then = await fetched(batches, { from: 5, doubts })
    expect(then.incoming.map(bodies)).toEqual([['(refused)', 'good'], ['(refused)']])
    expect(then.incoming.map(positions)).toEqual([[5, 6], [5]])
    expect(then.incoming[0]![0]!.refused).toContain('its offsets cannot be right')
  })

  it('a damaged batch in front of what is wanted hides none of it', async () => {
    const damaged = await batchOf(5, [text('x')])
    damaged.writeInt32BE(70, 23)
    const { incoming } = await fetched([Buffer.concat([damaged, await batchOf(6, [text('good')])])], {
      from: 6,
    })
    expect(bodies(incoming[0]!)).toEqual(['good'])
  })

  it('a batch that counts more records than it has gives those that it has', async () => {
    const batch = await batchOf(0, [text('a'), text('b')])
    batch.writeInt32BE(2 ** 30, 57)
    expect(bodies((await fetched([sealed(batch)])).incoming[0]!)).toEqual(['a', 'b'])
  })

  it('one record that contradicts itself costs none of its batch', async () => {
    const batch = await batchOf(0, [text('a'), text('b'), text('c')])
    // The length of the value of b.
    batch[batch.indexOf('b', 61) - 1] = 0x7c
    const { incoming } = await fetched([sealed(batch)])
    expect(bodies(incoming[0]!)).toEqual(['a', '(refused)', 'c'])
    expect(incoming[0]![1]!.refused).toContain('cannot be read')
  })

  it('any bytes: kafkajs reads what we write, the position moves on, and what follows arrives', async () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), {
      minLength: 1,
      maxLength: 8,
    })
    const codec = fc.constantFrom<Codec>('none', 'gzip', 'snappy', 'lz4', 'zstd')
    await fc.assert(
      fc.asyncProperty(damage, codec, fc.boolean(), fc.boolean(), async (changes, packing, right, within) => {
        const batch = await batchOf(5, [text('a'), { ...text('b'), headers: { h: 'v' } }, text('c')], {
          codec: packing,
        })
        // Offset and length stay, without which even a broker finds nothing behind it.
        const first = within ? 61 : 16
        for (const [place, byte] of changes) batch[first + (place % (batch.length - first))] = byte
        // A broker gives the offsets itself.
        batch.writeInt32BE(2, 23)
        if (right && batch[16] === 2) sealed(batch)
        const good = await batchOf(8, [text('good')])
        const codecs = codecsOf(['snappy', 'lz4', 'zstd'])
        const { incoming, records } = await fetched([Buffer.concat([batch, good]), good], { from: 5, codecs })
        const offsets = records[0]!.map(({ offset }) => Number(offset))
        expect(offsets).toEqual([...offsets].toSorted((one, other) => one - other))
        expect(offsets[0]).toBeGreaterThanOrEqual(5)
        expect(bodies(incoming[0]!).at(-1)).toBe('good')
        expect(bodies(incoming[1]!)).toEqual(['good'])
      }),
      { numRuns: 1000 },
    )
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), async (bytes) => {
        const { records } = await fetched([Buffer.from(bytes), await batchOf(5, [text('good')])], { from: 5 })
        expect(records[0]!.length).toBeGreaterThan(0)
        expect(records[1]).toHaveLength(1)
      }),
      { numRuns: 500 },
    )
  })
})
