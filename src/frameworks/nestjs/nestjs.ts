export {
  handlesTopicOf,
  HandlesTopic,
  InjectOutbox,
  outboxToken,
  type HandlesTopicDecorator,
  type HandlesTopicOptions,
} from './decorators.ts'
export { TwinboxHealthIndicator, type HealthIndication, type IndicateOptions } from './health.ts'
export {
  TwinboxModule,
  type NestConsumer,
  type TwinboxModuleAsyncOptions,
  type TwinboxModuleOptions,
  type TwinboxOptionsFactory,
} from './module.ts'
export type { ApplicationOptions } from '../application.ts'
