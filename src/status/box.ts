import { topicMatches } from '../message/message.ts'
import type { WorkerKind } from '../base/events.ts'

/** The outbox, or the inbox of one consumer, as people are told of it: its name, who works on it, and how one of those is started. */
export interface Box {
  readonly box: string
  readonly worker: Exclude<WorkerKind, 'receiver'>
  readonly command: string
}

/** Of the consumer as its column has it: '' is the outbox. */
export const boxOf = (consumer: string): Box =>
  consumer === ''
    ? { box: 'the outbox', worker: 'relay', command: 'twinbox relay' }
    : {
        ...{ box: `the inbox of "${consumer}"`, worker: 'claimer' },
        command: `twinbox claim --consumer ${consumer}`,
      }

/** Whether one of these names and patterns of handlers, or of subscriptions, takes a topic. */
export const takes = (patterns: readonly string[], topic: string): boolean =>
  patterns.some((pattern) => topicMatches(pattern, topic))
