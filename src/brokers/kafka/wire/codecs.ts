import zlib from 'node:zlib'
import { promisify } from 'node:util'
import { missingPeer } from '../../peer.ts'
import { blocksOf } from './measure.ts'

/** The libraries that take off what Node does not: each is an optional peer, and is loaded when a batch needs it. */

export type Unpack = (packed: Buffer, maxBytes: number) => Promise<Uint8Array>

/** @throws BrokerError that says what to install */
export type LoadCodec = () => Promise<Unpack>

export const loadSnappy: LoadCodec = async () => {
  const { uncompress } = await importSnappy()
  const one = async (block: Buffer): Promise<Buffer> =>
    Buffer.from(await uncompress(block, { asBuffer: true }))
  return async (packed) => {
    const blocks = blocksOf(packed)
    const unpacked: Buffer[] = []
    // One after the other: a batch may have a million of them.
    for (const block of blocks) unpacked.push(await one(block))
    return Buffer.concat(unpacked)
  }
}

export const loadLz4: LoadCodec = async () => {
  const { decompressFrame } = await importLz4()
  return decompressFrame
}

/** Node has it from 22.15 on. */
export const loadZstd: LoadCodec = async () => {
  if ('zstdDecompress' in zlib) {
    const unpack = promisify(zlib.zstdDecompress as typeof zlib.gunzip)
    return (packed, maxBytes) => unpack(packed, { maxOutputLength: maxBytes })
  }
  const { decompress } = await importZstd()
  return async (packed) => decompress(packed)
}

async function importSnappy() {
  try {
    return await import('snappy')
  } catch (cause) {
    throw missingPeer('snappy', cause)
  }
}

async function importLz4() {
  try {
    return await import('lz4-napi')
  } catch (cause) {
    throw missingPeer('lz4-napi', cause)
  }
}

async function importZstd() {
  try {
    return await import('fzstd')
  } catch (cause) {
    throw missingPeer('fzstd', cause)
  }
}
