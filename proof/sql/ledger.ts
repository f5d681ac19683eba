/** Where it is written what should have happened and what did: two tables, each written by the transactions of the real work. */
export interface Books {
  /** What was committed: a row for each message, with its `id` and its `key`. */
  readonly ledger: string
  /** What the handlers made of it: a row for each effect, with the `id` of its message, its `key` and, in order, an `at`. */
  readonly effects: string
  /** The column of the ledger that says the how manieth of its key a message is. */
  readonly nth: string
  /** What must have arrived as it was published: columns of both. */
  readonly same: readonly string[]
}

/** What must not be. */
export const rules = ['lost', 'ghosts', 'altered', 'duplicateEffects', 'orderViolations'] as const
export type Rule = (typeof rules)[number]

/** What breaks each rule, as queries. They hold in the end, when everything has been handled that was to be. */
export function breaches({ ledger, effects, nth, same }: Books): Readonly<Record<Rule, string>> {
  const all = (table: string): string => `(${same.map((column) => `${table}.${column}`).join(', ')})`
  return {
    lost: `select l.id from ${ledger} as l where not exists (select from ${effects} as e where e.id = l.id)`,

    ghosts: `select e.id from ${effects} as e where not exists (select from ${ledger} as l where l.id = e.id)`,

    altered: `select e.id from ${effects} as e join ${ledger} as l using (id)
      where ${all('e')} is distinct from ${all('l')}`,

    duplicateEffects: `select id from (
        select id, row_number() over (partition by id order by at) as time from ${effects}) as e
      where time > 1`,

    orderViolations: `select id from (
        select l.id, l.${nth} as nth, max(l.${nth}) over (
          partition by l.key order by e.at rows between unbounded preceding and 1 preceding) as before
        from ${effects} as e join ${ledger} as l using (id)
        where l.key is not null) as o
      where nth < before`,
  }
}

/** How many break each rule, as columns of a query, each named after its rule. */
export function breachCounts(books: Books): string {
  const queries = breaches(books)
  return rules.map((rule) => `(select count(*)::int from (${queries[rule]}) as x) as "${rule}"`).join(', ')
}
