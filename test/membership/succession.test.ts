import { expect, test } from 'vitest'
import type { Peer } from '../../src/database/sql/worker.ts'
import { Succession } from '../../src/membership/succession.ts'

const peer = (id: number): Peer => ({
  ...{ id, host: 'h', ended_by: null, beat: '1', in_flight: 0, unlocked: false, sign: null },
  ...{ reserved: false, lane_assignees: null, row_assignees: null },
})

test('the others are told in one order, whatever the server gives them in', () => {
  const succession = new Succession()
  succession.count([peer(3), peer(10), peer(2)])
  expect(succession.peers).toEqual([2, 3, 10])
  // Written at each heartbeat, a row changes its place in the table.
  succession.count([peer(10), peer(2), peer(3)])
  expect(succession.peers).toEqual([2, 3, 10])
})
