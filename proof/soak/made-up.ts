/** Webhooks for a machine that has not installed the real ones: their shape, their sizes, and how their keys are shared. */

/** A webhook as GitHub sends it. */
export interface Webhook {
  /** The event's name. */
  readonly topic: string
  /** The repository that it is about, if it is about one. */
  readonly key: string | null
  readonly payload: object
}

const topics = [
  ...['push', 'issues', 'issue_comment', 'pull_request', 'pull_request_review', 'check_run', 'check_suite'],
  ...['create', 'delete', 'deployment', 'fork', 'label', 'milestone', 'release', 'star', 'status', 'team'],
]
const actions = ['opened', 'edited', 'closed', 'created', 'deleted', 'completed']
/** In bytes; as many of the real ones lie between two neighbours as between two others. */
const sizes = [900, 2400, 2900, 6400, 7000, 7700, 9000, 11_600, 16_000, 23_600, 26_900]
/** In the real ones, too, two of three are about one repository, and one in seven is about none. */
const busy = 'made-up/hello-world'
const others = 13
const count = 330

/** The same at every call. */
export function madeUpWebhooks(): Webhook[] {
  return Array.from({ length: count }, (_, n) => {
    const topic = topics[n % topics.length]!
    const key = n % 7 === 6 ? null : n % 5 === 4 ? `org-${n % others}/project-${n % others}` : busy
    const changes: object[] = []
    const payload = {
      action: actions[n % actions.length],
      [topic]: subject(n),
      ...(key === null ? {} : { repository: repository(key) }),
      sender: user(n),
      changes,
    }
    let length = JSON.stringify(payload).length
    for (const wanted = sizes[(n * 3) % sizes.length]!; length < wanted;) {
      const next = change(n, changes.length)
      length += JSON.stringify(next).length + 1
      changes.push(next)
    }
    return { topic, key, payload }
  })
}

function subject(n: number): object {
  return {
    id: 444_500_000 + n,
    number: n,
    title: `Spelling error no. ${n} in the README file`,
    // What is hard to carry: quotes, other alphabets, a line separator, and backslashes.
    body: `It looks like "commit" has a second 't' – ñandú, 日本語, 🚀\u2028\\n\\u0041`,
    state: n % 3 === 0 ? 'closed' : 'open',
    locked: false,
    labels: n % 2 === 0 ? [{ id: 1_362_934_389, name: 'bug', color: 'd73a4a', default: true }] : [],
    closed_at: null,
  }
}

function user(n: number): object {
  const login = `user-${n % 29}`
  return { login, id: 21_031_067 + (n % 29), type: 'User', site_admin: false, ...links(`users/${login}`, 4) }
}

function repository(name: string): object {
  return {
    id: 186_853_002,
    full_name: name,
    private: false,
    owner: name.split('/')[0],
    description: null,
    ...links(`repos/${name}`, 6),
    size: 0.5,
    default_branch: 'main',
  }
}

/** Most of a real payload are addresses. */
function links(path: string, some: number): Record<string, string> {
  const kinds = ['html', 'events', 'followers', 'keys', 'branches', 'commits']
  return Object.fromEntries(
    kinds.slice(0, some).map((kind) => [`${kind}_url`, `https://api.example.com/${path}/${kind}{/id}`]),
  )
}

function change(n: number, nth: number): object {
  return {
    id: (n * 1000 + nth).toString(16).padStart(40, '0'),
    message: `Change ${nth} of ${n}`,
    timestamp: new Date(1_557_933_617_000 + n * 60_000 + nth).toISOString(),
    author: user(n + nth),
    added: [`src/${n}/${nth}.ts`],
    removed: [],
    modified: nth % 2 === 0 ? ['README.md'] : [],
  }
}
