export { createOutbox } from './outbox/outbox.ts'
export { createRelay } from './relay/relay.ts'
export { createReceiver } from './receiver/receiver.ts'
export { createClaimer } from './claimer/claimer.ts'
export { inTransaction } from './claimer/opener.ts'
export { migrate, migrationFiles, twinboxMigrations } from './database/migrate.ts'
export { applyRoles, readRoles, rolesScript } from './database/roles.ts'
export { evictWorkers, readWorkers } from './operate/workers.ts'
export { readDeadLetters, redriveDeadLetters, showDeadLetter, skipDeadLetters } from './operate/dead.ts'
export { exportDeadLetters } from './operate/export.ts'
export { eraseMessages } from './operate/erase.ts'
export { exportMessages } from './operate/export-messages.ts'
export { readParkedKeys, redriveParkedKeys, skipParkedKeys } from './operate/parked.ts'
export { readAudit } from './operate/audit.ts'
export { readMessages, showMessage } from './operate/messages.ts'
export { unsubscribe } from './operate/unsubscribe.ts'
export { prune } from './operate/prune.ts'
export { createSchedules } from './operate/schedules.ts'
export { defineConfig } from './config.ts'
export { defineTopics } from './topics/topics.ts'
export { type } from './topics/schema.ts'
export { bind } from './database/bind.ts'
export { withTransaction } from './database/transaction.ts'
export * from './base/errors.ts'
export { readStatus } from './status/status.ts'
export { explainMessage } from './status/explain.ts'
export { diagnose } from './doctor/doctor.ts'
export { createHealth } from './observe/health.ts'
export { logEvents } from './observe/logging.ts'
export { isTombstone, tombstone } from './message/tombstone.ts'
export { version } from './base/package.ts'

export type { Cancellable, Outbox, OutboxOptions, PublishOptions, Published } from './outbox/outbox.ts'
export type { TopicDefinition, Topics, TopicType, TopicTypes } from './topics/topics.ts'
export type { SchemaIssue, SchemaResult, StandardSchema } from './topics/schema.ts'
export type { MessageOf, PayloadOf, PublishedMessage, RegisteredTopics } from './topics/types.ts'
// A star, or a declaration of the user's would be another interface of that name.
export type * from './topics/registered.ts'
export type { TransactionInput } from './database/executor.ts'
export type { BoundTo } from './database/bind.ts'
export type { PrismaTransaction } from './database/libraries.ts'
export type { Config, ConsumerConfig, LibraryConsumerConfig } from './config.ts'
export type { RelayOptions } from './relay/options.ts'
export type { ReceiverOptions } from './receiver/options.ts'
export type { Identity } from './receiver/identity.ts'
export type { Opener } from './claimer/opener.ts'
export type { ClaimerOptions, LibraryClaimerOptions } from './claimer/options.ts'
export type {
  BatchHandler,
  Handler,
  HandlerContext,
  HandlerEntry,
  HandlerOptions,
  LibraryContext,
  Handlers,
  TransactionContext,
} from './claimer/handlers.ts'
export type { Coordination } from './membership/coordination.ts'
export type { Worker, WorkerOptions } from './membership/worker.ts'
export type { DatabaseInput, DatabaseOptions } from './database/database.ts'
export type { Eviction, EvictOptions, ReadWorkersOptions, WorkerStatus } from './operate/workers.ts'
export type { DeadLetterPage, ReadDeadLettersOptions, Redriven } from './operate/dead.ts'
export type { DeadLetterFilter, Signature } from './operate/filter.ts'
export type { DeadLetter, DeadLetterContent, DeadLetterDetails, Intervention } from './operate/letter.ts'
export type { Erased, EraseOptions } from './operate/erase.ts'
export type { Target } from './operate/target.ts'
export type { AuditAction, FailedAttempt } from './message/row.ts'
export type { ParkedKey, ParkedKeyFilter, ReadParkedKeysOptions } from './operate/parked.ts'
export type { AuditEntry, ReadAuditOptions } from './operate/audit.ts'
export type { MessageFilter, MessageHistory, PlacedMessage, ReadMessagesOptions } from './operate/messages.ts'
export type { Unsubscribed, UnsubscribeOptions } from './operate/unsubscribe.ts'
export type { PruneOptions } from './operate/prune.ts'
export type { NewSchedule, Schedule, Schedules, SchedulesOptions } from './operate/schedules.ts'
export type { RedriveOptions } from './operate/steps.ts'
export type { RoleStatus } from './database/roles.ts'
export type { BoxStatus, ConsumerStatus, Status, StatusOptions, UnhandledTopic } from './status/status.ts'
export type { ExplainOptions } from './status/explain.ts'
export type {
  ExplainedBlocker,
  ExplainedPlace,
  ExplainedWorker,
  Explanation,
  OpenTransaction,
  Why,
} from './status/explanation.ts'
export type { MigrationFile } from './database/compatibility.ts'
export type { MigrateOptions } from './database/migrate.ts'
export type { Blocker, LockWait } from './database/lockwait.ts'
export type { Message, MessageFields, NewMessage, OutgoingMessage } from './message/message.ts'
export type { DiagnoseOptions } from './doctor/doctor.ts'
export type { Finding } from './doctor/finding.ts'
export type { Demand } from './doctor/server.ts'
export type { Health, HealthOptions, HealthProblem, HealthReport } from './observe/health.ts'
export type { LogLevel, Logger, LogOptions } from './observe/logging.ts'
export type { FailedMessage, RedactError } from './base/redaction.ts'
export type { Operation, Telemetry, Trace, TracedMessage } from './base/telemetry.ts'
export type { FailoverStrategy, OnEvent, TwinboxEvent, WorkerKind } from './base/events.ts'
export type { AbandonedPart, Assignee, FailoverFunction } from './membership/failover.ts'
export type {
  Broker,
  IncomingMessage,
  OnBatch,
  SendContext,
  SendOutcome,
  SubscribeOptions,
  Subscription,
  DeliveredEvent,
  Gap,
  ForeignMessage,
} from './brokers/broker.ts'
