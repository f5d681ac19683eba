import { Command as Commander, type AddHelpTextContext, type AddHelpTextPosition } from 'commander'
import { version } from '../base/package.ts'
import { printable, printableLine } from '../base/printable.ts'
import { errColumns } from './output.ts'
import { fold, plainColumns, unfold } from './prose.ts'

/** A command whose help fits the terminal, and which knows what was probably meant. */
export class Command extends Commander {
  override createCommand(name?: string): Command {
    return new Command(name)
  }

  override addHelpText(
    position: AddHelpTextPosition,
    text: string | ((context: AddHelpTextContext) => string),
  ): this {
    return super.addHelpText(position, (context) => {
      const output = this.configureOutput()
      const width = (context.error ? output.getErrHelpWidth?.() : output.getOutHelpWidth?.()) || plainColumns
      return fold(unfold(typeof text === 'string' ? text : text(context)), width, 0)
    })
  }

  /** To be called when the command has all that is below it. */
  complete(path = ''): this {
    const help = `See ${['twinbox', path, '--help'].filter((word) => word !== '').join(' ')}.`
    this.version(version)
    // As often as there are commands, it says nothing new.
    if (path !== '') this.options.at(-1)!.hidden = true
    this.exitOverride().showHelpAfterError(help)
    // It quotes arguments, which a script may have from anywhere.
    this.configureOutput({
      writeOut: (text) => void process.stdout.write(printable(text)),
      writeErr: (text) => void process.stderr.write(printable(text)),
      outputError(text, write) {
        // What it guesses stands in a line of its own; any other line break is an argument's.
        const [guess = ''] = /\n\(Did you mean [\w ,-]+\?\)$/.exec(text.trimEnd()) ?? []
        const error = printableLine(text.trimEnd().slice(0, -guess.length || undefined))
        write(`${fold(error, errColumns())}${guess}\n`)
      },
    })
    if (this.commands.length > 0) this.#guide()
    for (const below of this.commands as readonly Command[])
      below.complete(`${path} ${below.name()}`.trimStart())
    return this
  }

  /** Commander shows its own help for that of a command that is not there, and takes a mistyped name for an argument too many. */
  #guide(): void {
    this.helpCommand(false)
      .command('help')
      .description('Show what a command takes.')
      .argument('[command...]', 'its name')
      .action((names: readonly string[]) => this.#find(names).help())
    this.allowExcessArguments().hook('preAction', (_, called) => {
      if (called === this && called.args.length > called.registeredArguments.length) this.#find(called.args)
    })
  }

  /** What is below it by these names, or an error that says which one is probably meant. */
  #find([name, ...names]: readonly string[]): Command {
    if (name === undefined) return this
    const found = (this.commands as readonly Command[]).find((below) => below.name() === name)
    if (found !== undefined) return found.#find(names)
    const guide = new Commander(this.name()).copyInheritedSettings(this)
    for (const below of this.commands) guide.command(below.name())
    // It has no such command either.
    return guide.parse([name], { from: 'user' }) as never
  }
}
