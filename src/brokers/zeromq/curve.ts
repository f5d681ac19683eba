import { OptionError } from '../../base/errors.ts'

/** Keys of CurveZMQ, as the 40 characters that `curveKeyPair()` of the package zeromq gives. */
export interface ZeromqCurve {
  /** Of this process. What a relay's receivers have in `allow`, and what relays have of a receiver as `publicKey`. */
  readonly publicKey: string
  readonly secretKey: string
  /**
   * Of a receiver: the public keys of all relays, and of whoever else may send. It has to name one at least: ZeroMQ by itself lets in
   * every key.
   */
  readonly allow?: readonly string[] | undefined
}

const alphabet = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#'

const pattern = /^[0-9A-Za-z.:+=^!/*?&<>()[\]{}@%$#-]{40}$/

/** @throws OptionError that does not say what was given: it may be the secret one. */
export function checkKey(option: string, key: unknown): void {
  if (typeof key === 'string' && pattern.test(key)) return
  throw new OptionError(
    option,
    `${option} must be a key of 40 characters (Z85), as curveKeyPair() of zeromq gives it.`,
  )
}

/** @throws OptionError */
export function checkCurve(curve: ZeromqCurve): ZeromqCurve {
  if (typeof curve !== 'object' || curve === null)
    throw new OptionError(
      'curve',
      'curve must be an object with publicKey, secretKey and, for receivers, allow.',
    )
  const unknown = Object.keys(curve).find((field) => !['publicKey', 'secretKey', 'allow'].includes(field))
  if (unknown !== undefined)
    throw new OptionError('curve', `curve has no field ${unknown}. Known are: allow, publicKey, secretKey.`)
  const { publicKey, secretKey, allow } = curve
  checkKey('curve.publicKey', publicKey)
  checkKey('curve.secretKey', secretKey)
  if (allow !== undefined) {
    if (!Array.isArray(allow) || allow.length === 0)
      throw new OptionError('curve.allow', 'curve.allow must be a list of at least one public key.')
    for (const key of allow) checkKey('curve.allow', key)
  }
  return { publicKey, secretKey, allow: allow === undefined ? undefined : [...allow] }
}

/** The 32 bytes of a key as text: https://rfc.zeromq.org/spec/32/ */
export function z85(bytes: Buffer): string {
  let text = ''
  for (let at = 0; at + 4 <= bytes.length; at += 4) {
    let value = bytes.readUInt32BE(at)
    let five = ''
    for (let digit = 0; digit < 5; digit++) {
      five = alphabet[value % 85]! + five
      value = Math.floor(value / 85)
    }
    text += five
  }
  return text
}
