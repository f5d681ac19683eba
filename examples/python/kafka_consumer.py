#!/usr/bin/env python3
"""Takes messages from Kafka one at a time and writes each into a table.

    kafka_consumer.py GROUP TOPIC FILE

Programs of one GROUP share the partitions of TOPIC, which has to exist.
FILE is an SQLite database, made when it is not there. The servers are those of KAFKA_BROKERS.
"""
import os
import sqlite3
import sys
import time

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CommitFailedError

BROKERS = os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092").split(",")
SESSION_MS = int(os.environ.get("SESSION_MS", "10000"))  # Silent for longer, it counts as dead.


def open_table(file):
    table = sqlite3.connect(file)
    table.execute(
        "create table if not exists effects"
        " (source text, id text, key text, data text, primary key (source, id))"
    )
    return table


def work(table, record):
    """Does what the message asks for, once. Returns False if that was done before."""
    headers = {name: value.decode() for name, value in record.headers}
    identity = headers["ce_source"], headers["ce_id"]
    # The effect and the identity of the message are one row. When the program dies before it has
    # committed, the message comes again, and the row says that nothing is left to do.
    with table:
        done = table.execute(
            "insert into effects values (?, ?, ?, ?) on conflict do nothing",
            (*identity, headers.get("ce_partitionkey"), record.value.decode()),
        )
    return done.rowcount == 1


def main(group, topic, file):
    table = open_table(file)
    consumer = KafkaConsumer(
        topic,
        group_id=group,
        bootstrap_servers=BROKERS,
        auto_offset_reset="earliest",  # A new group begins with what is there.
        enable_auto_commit=False,  # By the clock, it would commit what is still at work.
        max_poll_records=1,
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=SESSION_MS // 3,
        api_version_auto_timeout_ms=10_000,
    )
    print("waiting for", topic, flush=True)
    try:
        for record in consumer:
            try:
                new = work(table, record)
                print("done" if new else "again", record.value.decode(), flush=True)
                # Only now. Committed before the work, it would be lost with this program.
                consumer.commit()
            except CommitFailedError:
                print("another program has the partition now", file=sys.stderr, flush=True)
            except Exception as error:
                print(f"failed, comes again: {error!r}", file=sys.stderr, flush=True)
                time.sleep(1)
                # Back to it. Whatever is behind it in its partition has to wait.
                consumer.seek(TopicPartition(record.topic, record.partition), record.offset)
    except KeyboardInterrupt:
        consumer.close(autocommit=False)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
