import { isContentError } from './sqlstate.ts'

/**
 * Does some work on all items in one go. If it fails by the content of an item, on halves of them, until each culprit is
 * by itself: the database says that there is one, and not which. The order of the items is kept.
 *
 * @throws whatever else the work throws; what stands before has been done by then
 */
export async function halving<Item>(
  items: readonly Item[],
  work: (items: readonly Item[]) => Promise<void>,
  onCulprit: (item: Item, error: unknown) => Promise<void> | void,
): Promise<void> {
  try {
    await work(items)
  } catch (error) {
    if (!isContentError(error)) throw error
    if (items.length === 1) return onCulprit(items[0]!, error)
    const half = Math.ceil(items.length / 2)
    await halving(items.slice(0, half), work, onCulprit)
    await halving(items.slice(half), work, onCulprit)
  }
}
