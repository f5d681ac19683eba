/**
 * Kafka's own rule for the partition of a message: murmur2 of the key, and in turn for messages without one. It is written once here,
 * since with another one every key would move to another partition, and other producers of the topic, in Java say, go by this one.
 * @platformatic/kafka has another rule for half of all keys, and kafkajs had one before its version 2.
 */

/** What one knows of a topic's partitions. */
export interface Partitions {
  readonly count: number
  /** Those that have a leader. */
  readonly led: readonly number[]
}

export type Chooser = (topic: string, key: string | null, partitions: Partitions) => number

export function createChooser(): Chooser {
  const turns = new Map<string, number>()
  return (topic, key, { count, led }) => {
    if (key !== null) return (murmur2(Buffer.from(key)) & 0x7fffffff) % count
    const turn = turns.get(topic) ?? Math.floor(Math.random() * count)
    turns.set(topic, (turn + 1) % 0x7fffffff)
    return led.length > 0 ? led[turn % led.length]! : turn % count
  }
}

/** As Kafka's `Utils.murmur2`: 32 bits with a sign. */
export function murmur2(bytes: Buffer): number {
  const multiplier = 0x5bd1e995
  const mix = (value: number): number => {
    const product = Math.imul(value, multiplier)
    return Math.imul(product ^ (product >>> 24), multiplier)
  }
  const whole = bytes.length & ~3
  let hash = 0x9747b28c ^ bytes.length
  for (let at = 0; at < whole; at += 4) hash = Math.imul(hash, multiplier) ^ mix(bytes.readInt32LE(at))
  const rest = bytes.length - whole
  if (rest > 0) hash = Math.imul(hash ^ bytes.readUIntLE(whole, rest), multiplier)
  hash = Math.imul(hash ^ (hash >>> 13), multiplier)
  return hash ^ (hash >>> 15)
}
