import type { Run } from '../stage/broker.ts'

/** What all processes of one demo have to know. */
export interface DemoRun extends Run {
  readonly messages: number
}
