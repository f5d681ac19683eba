import { onTestFinished, vi } from 'vitest'
import { StateMachine } from '../../src/base/state.ts'

/** The state machines that make a move from now on until the test ends, in the order of their first. */
export function movedMachines<State extends string>(): StateMachine<State>[] {
  const machines: StateMachine<State>[] = []
  // oxlint-disable-next-line typescript/unbound-method
  const { go } = StateMachine.prototype
  const spy = vi.spyOn(StateMachine.prototype, 'go').mockImplementation(function (
    this: StateMachine<State>,
    to,
  ) {
    if (!machines.includes(this)) machines.push(this)
    return go.call(this, to)
  })
  onTestFinished(() => spy.mockRestore())
  return machines
}
