import { empty } from '../parts/empty.ts'
import { count } from '../parts/count.ts'
import { duration } from '../parts/time.ts'
import { fragment } from '../fragment.ts'
import type { Html } from '../html.ts'
import type { Poller } from '../poller.ts'
import { table } from '../parts/table.ts'
import type { BoxStatus } from '../../status/status.ts'
import type { Context, Shared, View } from '../view.ts'

export const overview = ({ poller }: Shared): View => ({
  path: '/',
  title: 'Overview',
  nav: 'Overview',
  live: (context) => ({ boxes: boxes(context, poller) }),
  render: async (context) => fragment('boxes', boxes(context, poller)),
})

function boxes({ poll }: Context, { outage }: Poller): Html {
  const rows: (BoxStatus & { readonly name: string })[] =
    poll === null
      ? []
      : [{ ...poll.outbox, name: 'outbox' }, ...poll.consumers.map((box) => ({ ...box, name: box.consumer }))]
  return table(
    'The outbox, and the inbox of each consumer',
    [
      { head: 'Box', cell: ({ name }) => name },
      { head: 'Depth', number: true, cell: ({ depth, more }) => count({ count: depth, more }) },
      { head: 'Lag', number: true, cell: ({ lagMs }) => duration(lagMs) },
      { head: 'Deferred', number: true, cell: ({ deferred }) => count(deferred) },
      { head: 'Parked keys', number: true, cell: ({ parkedKeys }) => count(parkedKeys) },
      { head: 'Dead letters', number: true, cell: ({ deadLetters }) => count(deadLetters) },
    ],
    rows,
    empty('Nothing could be read yet.', outage?.why ?? 'The database has not answered.'),
  )
}
