import { table as columns } from '../src/terminal/table.ts'

/**
 * Milliseconds by a clock that all processes of a machine share and that never jumps: what one process begins and
 * another one ends can be measured by it. The wall clock jumps, and `performance.now` begins anew in each process.
 */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6

/** What became of a number of measurements. Null where there was none. */
export interface Spread {
  readonly p50: number | null
  readonly p95: number | null
  readonly p99: number | null
  readonly max: number | null
  readonly samples: number
}

export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b)
  // The nearest rank, never something between two measurements: of fewer than 100, the p99 is the worst.
  const at = (share: number): number | null => {
    const value = sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]
    return value === undefined ? null : rounded(value)
  }
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1), samples: sorted.length }
}

/** How evenly something is shared: 1 if all have the same, 1/n if one has everything. */
export function jain(values: readonly number[]): number {
  const sum = total(values)
  const squares = total(values.map((value) => value * value))
  return squares === 0 ? 1 : rounded((sum * sum) / (values.length * squares), 3)
}

export const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0)

export const mean = (values: readonly number[]): number => total(values) / (values.length || 1)

export const rounded = (value: number, digits = 1): number => Number(value.toFixed(digits))

export type Cell = string | number | boolean | null | undefined

/** A table of figures, as the command line draws tables. */
export function table(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  return columns(
    head,
    rows.map((row) => row.map(show)),
    { numbers: true },
  )
}

function show(cell: Cell): string {
  if (cell === null || cell === undefined) return '-'
  if (typeof cell === 'boolean') return cell ? 'yes' : 'NO'
  return String(cell)
}
