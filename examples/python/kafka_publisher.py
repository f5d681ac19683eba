#!/usr/bin/env python3
"""Publishes what a Twinbox receiver takes: CloudEvents in binary mode, over Kafka.

    kafka_publisher.py TOPIC < MESSAGES

Each line of MESSAGES is one: {"id": "placed-7", "key": "order-7", "data": {"total": 12}}
A message of a known id is dropped by the receiver, so after a failure publish everything again.
TOPIC has to exist. The servers are those of KAFKA_BROKERS.
"""
import json
import os
import sys
from datetime import datetime, timezone

from kafka import KafkaProducer

BROKERS = os.environ.get("KAFKA_BROKERS", "127.0.0.1:9092").split(",")
# The id of a message has to be unique among those of one source.
SOURCE = "/examples/python"


def headers_of(message, topic):
    attributes = {
        "specversion": "1.0",
        "id": message["id"],
        "source": SOURCE,
        "type": topic,
        "time": datetime.now(timezone.utc).isoformat(),
    }
    if message.get("key") is not None:
        attributes["partitionkey"] = message["key"]
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    return [("content-type", b"application/json"), *headers]


def main(topic):
    producer = KafkaProducer(
        bootstrap_servers=BROKERS,
        acks="all",  # Every replica in sync has it.
        retries=5,
        max_in_flight_requests_per_connection=1,  # A retry does not overtake what is behind it.
        api_version_auto_timeout_ms=10_000,
    )
    for line in sys.stdin:
        message = json.loads(line)
        # Messages of one key go to one partition, where they stay in order.
        key = message.get("key")
        sent = producer.send(
            topic,
            key=None if key is None else key.encode(),
            value=json.dumps(message["data"]).encode(),
            headers=headers_of(message, topic),
        )
        # Throws if Kafka has refused it, or not answered.
        sent.get(timeout=60)
        print("sent", message["id"], flush=True)
    producer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
