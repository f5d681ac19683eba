import { isUtf8 } from 'node:buffer'

/** Bytes of others where Twinbox and Postgres have text: nothing is lost of them. */

const mark = 'base64,'

/** Whether bytes are a text that Postgres stores. */
export const isText = (bytes: Uint8Array): boolean => isUtf8(bytes) && !bytes.includes(0)

export const inBase64 = (bytes: Buffer): string => mark + bytes.toString('base64')

/**
 * Their text, or `base64,` and what they are in base64. A text that begins like that is written in base64 too, so that what
 * differs in a byte differs as text.
 */
export function textOf(bytes: Buffer): string {
  const text = isText(bytes) ? bytes.toString() : null
  return text === null || text.startsWith(mark) ? inBase64(bytes) : text
}
