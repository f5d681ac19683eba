interface Losable {
  /** Settles when it is of no more use. */
  readonly lost: Promise<unknown>
}

export interface Reopening<T> {
  /** The thing; opened when there is none. Whoever asks while it is being opened shares the attempt. */
  get(): Promise<T>
  /** The thing, or the attempt under way; null if there is neither. */
  current(): Promise<T> | null
}

/** One thing for everybody, opened again after it was lost. An attempt that failed is not remembered. */
export function reopening<T extends Losable>(open: () => Promise<T>): Reopening<T> {
  let current: Promise<T> | null = null
  const forget = (): void => {
    current = null
  }
  const openAndWatch = async (): Promise<T> => {
    const opened = await open()
    opened.lost.then(forget, forget)
    return opened
  }
  return {
    get: () => {
      if (current === null) {
        current = openAndWatch()
        current.catch(forget)
      }
      return current
    },
    current: () => current,
  }
}
