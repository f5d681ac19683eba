import type { Cursor } from '../wire/cursor.ts'

/**
 * The id of a topic, which no other topic ever has, in whatever cluster and however often its name is used again (KIP-516). kafkajs
 * asks in a version of the protocol that has none, so we ask beside it: https://kafka.apache.org/protocol#The_Messages_Metadata
 */

export const versionsApi = 18
const metadataApi = 3
/** The first that has ids, and the last of which we know the layout. */
const [versionMin, versionMax] = [10, 12]

/** In which version to ask, by an answer to ApiVersions of version 0 to 2; null if the broker has no ids. */
export function metadataVersion(answer: Cursor): number | null {
  let version: number | null = null
  answer.int16()
  answer.array(() => {
    const [api, min, max] = [answer.int16(), answer.int16(), answer.int16()]
    if (api === metadataApi && max >= versionMin && min <= versionMax) version = Math.min(max, versionMax)
  })
  return version
}

/** @param version of `metadataVersion` */
export function writeMetadataRequest(correlation: number, version: number, topics: Iterable<string>): Buffer {
  const names = [...topics].map((topic) => Buffer.from(topic))
  const head = Buffer.alloc(11)
  head.writeInt16BE(metadataApi)
  head.writeInt16BE(version, 2)
  head.writeInt32BE(correlation, 4)
  // No client id, and no tags.
  head.writeInt16BE(-1, 8)
  const parts = names.flatMap((name) => [Buffer.alloc(16), uvarint(name.length + 1), name, noTags])
  // Nobody makes a topic by asking, and of rights nothing is asked, of the cluster (until 10) and of topics.
  const end = Buffer.alloc(version === 10 ? 4 : 3)
  const body = Buffer.concat([head, uvarint(names.length + 1), ...parts, end])
  const size = Buffer.alloc(4)
  size.writeInt32BE(body.length)
  return Buffer.concat([size, body])
}

export interface TopicIds {
  /** By the names of the topics: text, or '' if the cluster has given none. What does not exist is not among them. */
  readonly ids: ReadonlyMap<string, string>
  readonly cluster: string
}

export function readTopicIds(answer: Cursor): TopicIds {
  const ids = new Map<string, string>()
  answer.skipTags()
  answer.skip(4)
  answer.compactArray(() => {
    answer.skip(4)
    answer.compact()
    answer.skip(4)
    answer.compact()
    answer.skipTags()
  })
  const cluster = answer.compact()?.toString() ?? ''
  answer.skip(4)
  answer.compactArray(() => {
    const error = answer.int16()
    const name = answer.compact()
    const id = answer.take(16)
    answer.skip(1)
    answer.compactArray(() => {
      answer.skip(14)
      for (let lists = 0; lists < 3; lists++) answer.compactArray(() => answer.skip(4))
      answer.skipTags()
    })
    answer.skip(4)
    answer.skipTags()
    const none = id.every((byte) => byte === 0)
    // With some errors, such as a leader that is away, the topic is there and has its id.
    if (name !== null && (error === 0 || !none))
      ids.set(name.toString(), none ? '' : id.toString('base64url'))
  })
  return { ids, cluster }
}

const noTags = Buffer.from([0])

function uvarint(value: number): Buffer {
  const bytes: number[] = []
  for (; value > 0x7f; value >>>= 7) bytes.push((value & 0x7f) | 0x80)
  return Buffer.from([...bytes, value])
}
