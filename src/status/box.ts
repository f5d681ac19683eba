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
