import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { leave, type Server } from './server.ts'

/** A Python that has the library of the server's name, for the programs of `examples/python` and of the tests. */
export interface Python {
  readonly program: string
}

const run = promisify(execFile)

/** Debian's packages bring a library to Debian's own Python, which need not be the first one of the path. */
const programs = ['python3', '/usr/bin/python3']

const withLibrary = (library: string, name: string): Server<Python> => ({
  name,
  packages: { [`/usr/lib/python3/dist-packages/${library}`]: [name] },
  start: async () => {
    const code = `import sys, ${library} as it; print(it.__version__, 'on Python', sys.version.split()[0])`
    for (const program of programs) {
      try {
        const { stdout } = await run(program, ['-c', code])
        return { address: { program }, from: `${program}, ${library} ${stdout.trim()}`, stop: leave }
      } catch {
        // It is looked for in the next one.
      }
    }
    return { missing: `neither ${programs.join(' nor ')} can import ${library}` }
  },
})

/** Clients of RabbitMQ and of Kafka, and ZeroMQ itself. */
export const pika = withLibrary('pika', 'python3-pika')
export const kafkaPython = withLibrary('kafka', 'python3-kafka')
export const zmqPython = withLibrary('zmq', 'python3-zmq')

export const servers = [pika, kafkaPython, zmqPython]
