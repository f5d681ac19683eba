import type { Moves } from '../base/state.ts'

/**
 * - `outside`: not registered yet.
 * - `member`: it has an id, and shows that it lives. What it holds counts.
 * - `void`: it was given up on, or must fear it. Nothing that it held counts; it comes back under a new id.
 * - `left`: it has said goodbye.
 */
export type Life = 'outside' | 'member' | 'void' | 'left'

export const lifeMoves: Moves<Life> = {
  outside: ['member', 'left'],
  member: ['void', 'left'],
  void: ['member', 'left'],
  left: [],
}
