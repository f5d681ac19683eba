/**
 * The payloads of topics for the compiler alone, where there is no `defineTopics`:
 *
 *     declare module 'twinbox' {
 *       interface TopicPayloads {
 *         'order.placed': { id: string; total: number }
 *       }
 *     }
 *
 * From then on every outbox and every claimer without `topics` knows these topics and no others. Nothing is checked when it runs.
 */
// eslint-disable-next-line typescript/no-empty-object-type
export interface TopicPayloads {}
