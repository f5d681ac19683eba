import type { Message, NewMessage } from '../message/message.ts'
import type { TopicPayloads } from './registered.ts'
import type { Topics, TopicTypes } from './topics.ts'

/** What the compiler knows of messages, from the topics that are defined. Nothing of this is there at run time. */

type TypesOf<Defined extends Topics> = Defined extends Topics<infer Types> ? Types : never
/** Without defined topics every topic is one, and a payload may be anything. */
type IsOpen<Types> = string extends keyof Types ? true : false

/** The topics of `TopicPayloads`; any topic as long as nothing is declared there. */
export type RegisteredTopics = keyof TopicPayloads extends never
  ? Topics
  : Topics<{
      readonly [Topic in keyof TopicPayloads]: {
        readonly published: TopicPayloads[Topic]
        readonly handled: TopicPayloads[Topic]
      }
    }>

/** A message as `publish` takes it: one of the defined topics, with its payload. */
export type PublishedMessage<Defined extends Topics = RegisteredTopics> = Publishable<TypesOf<Defined>>

type Publishable<Types extends TopicTypes> =
  IsOpen<Types> extends true
    ? NewMessage
    : {
        [Topic in keyof Types & string]: NewMessage<Topic, Types[Topic]['published']>
      }[keyof Types & string]

/** The topics that a pattern takes, or the one that it names. */
export type TopicOf<Defined extends Topics, Pattern extends string> = Matched<
  keyof TypesOf<Defined> & string,
  Pattern
>

type Matched<Topic extends string, Pattern extends string> = Topic extends unknown
  ? Pattern extends PatternOf<Topic>
    ? Topic
    : never
  : never

/**
 * A message as the handler of a topic or a pattern gets it. Of a pattern that takes several topics it is one of several types,
 * told apart by `message.topic`.
 */
export type MessageOf<Defined extends Topics, Pattern extends string = '#'> = Handled<
  TypesOf<Defined>,
  Pattern
>

type Handled<Types extends TopicTypes, Pattern extends string> =
  IsOpen<Types> extends true
    ? Message
    : {
        [Topic in Matched<keyof Types & string, Pattern>]: Message<Types[Topic]['handled'], Topic>
      }[Matched<keyof Types & string, Pattern>]

/** The payload of a topic as a handler gets it. */
export type PayloadOf<Defined extends Topics, Pattern extends string = '#'> = MessageOf<
  Defined,
  Pattern
>['payload']

/** The names and patterns for which there may be a handler. */
export type PatternsOf<Defined extends Topics> =
  IsOpen<TypesOf<Defined>> extends true ? string : PatternOf<keyof TypesOf<Defined> & string>

/**
 * The patterns that take a topic, as far as the compiler knows them: a `*` for any of its words, and a `#` at its start or its end.
 * Of a topic of more than six words no `*`, since their number doubles with each word.
 */
export type PatternOf<Topic extends string> = Topic extends unknown
  ? Topic | '#' | Starred<Topic> | `${Beginning<Topic>}.#` | `#.${Ending<Topic>}`
  : never

type Starred<Topic extends string, Words extends readonly unknown[] = []> = Words['length'] extends 6
  ? Topic
  : Topic extends `${infer Word}.${infer Rest}`
    ? `${Word | '*'}.${Starred<Rest, readonly [...Words, unknown]>}`
    : Topic | '*'

type Beginning<Topic extends string> = Topic extends `${infer Word}.${infer Rest}`
  ? Word | `${Word}.${Beginning<Rest>}`
  : Topic

type Ending<Topic extends string> = Topic extends `${string}.${infer Rest}` ? Topic | Ending<Rest> : Topic
