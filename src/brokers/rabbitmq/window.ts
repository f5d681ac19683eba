/**
 * How many deliveries RabbitMQ may send ahead. RabbitMQ counts messages, and memory counts bytes; the number cannot be
 * changed for a queue that is being consumed. So whoever got too much gives all of it back and asks for fewer, by the size
 * of what came, and for more again when messages are small.
 */
export interface Window {
  /** How many to ask for. */
  prefetch(): number
  /** Whether so many deliveries are too many bytes to hold. Then fewer are asked for next. */
  overflows(deliveries: number, bytes: number): boolean
  /** Whether a batch says that more may be asked for. Then more are, next. */
  widens(deliveries: number, bytes: number): boolean
}

/** Twice a batch is asked for, so that one is under way while one is written. Twice that is borne. */
export function createWindow(most: number, batchBytes: number): Window {
  const wanted = 2 * batchBytes
  let prefetch = most
  return {
    prefetch: () => prefetch,
    overflows(deliveries, bytes) {
      if (deliveries < 2 || bytes <= 2 * wanted) return false
      prefetch = Math.max(1, Math.floor((deliveries * wanted) / bytes))
      return true
    },
    widens(deliveries, bytes) {
      const wider = Math.min(most, prefetch * 4)
      if (wider === prefetch || 2 * deliveries < prefetch || (bytes / deliveries) * wider > wanted)
        return false
      prefetch = wider
      return true
    },
  }
}
