/** What a read has brought, by lane, in the order in which it was given. */
export function byLane<Row extends { readonly lane: number }>(
  rows: readonly Row[],
): ReadonlyMap<number, readonly Row[]> {
  const lanes = new Map<number, Row[]>()
  for (const row of rows) {
    const own = lanes.get(row.lane)
    if (own === undefined) lanes.set(row.lane, [row])
    else own.push(row)
  }
  return lanes
}
