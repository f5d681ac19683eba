/**
 * A point at which a test may kill the process. Workers take the function as a second argument that their public types
 * do not show; nothing from outside the process can set it.
 */
export type Failpoint = (point: FailpointName) => Promise<void> | void

export type FailpointName =
  | 'relay.before_send'
  | 'relay.after_send'
  | 'relay.before_delete'
  | 'relay.after_delete'
  | 'receiver.before_commit'
  | 'receiver.after_commit'
  | 'claimer.after_claim'
  | 'claimer.before_handle'
  | 'claimer.before_settle'
  | 'claimer.before_commit'
  | 'claimer.after_commit'

export const noFailpoint: Failpoint = () => {}
