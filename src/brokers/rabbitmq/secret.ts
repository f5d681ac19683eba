import type { ChannelModel } from 'amqplib'
import { pause } from '../../base/waiting.ts'
import type { Settings, Target } from './options.ts'

/**
 * Tells the server the password of now, on a connection that is open, for as long as it is. With a token that has expired the server
 * refuses what comes (3.10), or ends the connection, after which the next one is asked for anew.
 */
export async function keepSecret(
  { model, lost }: { readonly model: ChannelModel; readonly lost: Promise<void> },
  { target, renewMs }: Pick<Settings, 'target' | 'renewMs'>,
  opened: Target,
): Promise<void> {
  const ended = new AbortController()
  void lost.then(() => ended.abort())
  let { password } = opened
  while (!ended.signal.aborted) {
    await pause(renewMs!, ended.signal)
    try {
      const now = await target()
      // Another user takes another connection.
      if (ended.signal.aborted || now.user !== opened.user || now.password === password) continue
      await Promise.race([model.updateSecret(toSecret(now), 'renewed by twinbox'), lost])
      password = now.password
    } catch {
      // It is asked again.
    }
  }
}

const toSecret = ({ url, password }: Target): Buffer =>
  Buffer.from(typeof url === 'string' ? decodeURIComponent(password) : password)
