import { EventEmitter } from 'node:events'

/**
 * Hints inside one process: somebody has just written what somebody else polls for. A hint may come too early, before
 * the commit, or not at all; polling alone is correct, and a hint only makes it prompt.
 */
const hints = new EventEmitter().setMaxListeners(0)

/** A publisher's transaction has most likely not committed yet: look now, and again a moment later. */
export function hintPublished(schema: string): void {
  hints.emit(`outbox ${schema}`)
}

/** Messages for a consumer have been committed to the inbox. */
export function hintReceived(schema: string, consumer: string): void {
  hints.emit(`inbox ${schema} ${consumer}`)
}

export function onPublished(schema: string, listener: () => void): () => void {
  hints.on(`outbox ${schema}`, listener)
  return () => hints.off(`outbox ${schema}`, listener)
}

export function onReceived(schema: string, consumer: string, listener: () => void): () => void {
  hints.on(`inbox ${schema} ${consumer}`, listener)
  return () => hints.off(`inbox ${schema} ${consumer}`, listener)
}
