#!/usr/bin/env python3
"""Publishes what a Twinbox receiver takes: CloudEvents in binary mode, over RabbitMQ.

    rabbitmq_publisher.py TOPIC < MESSAGES

Each line of MESSAGES is one: {"id": "placed-7", "key": "order-7", "data": {"total": 12}}
A message of a known id is dropped by the receiver, so after a failure publish everything again.
The server is that of AMQP_URL.
"""
import json
import os
import sys
from datetime import datetime, timezone

import pika
from pika.exceptions import UnroutableError

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672")
EXCHANGE = os.environ.get("EXCHANGE", "twinbox")
# The id of a message has to be unique among those of one source.
SOURCE = "/examples/python"


def properties_of(message, topic):
    headers = {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": message["id"],
        "cloudEvents:source": SOURCE,
        "cloudEvents:type": topic,
        "cloudEvents:time": datetime.now(timezone.utc).isoformat(),
    }
    if message.get("key") is not None:
        headers["cloudEvents:partitionkey"] = message["key"]
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,  # It survives a restart of the server.
        message_id=message["id"],
        headers=headers,
    )


def main(topic):
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
    # From here on basic_publish() waits until the server has stored the message.
    channel.confirm_delivery()
    for line in sys.stdin:
        message = json.loads(line)
        try:
            channel.basic_publish(
                exchange=EXCHANGE,
                routing_key=topic,
                body=json.dumps(message["data"]),
                properties=properties_of(message, topic),
                mandatory=True,  # Without a queue for it the server confirms it and drops it.
            )
        except UnroutableError:
            sys.exit(f"No queue takes {topic}: start a receiver of it once, then publish again.")
        print("sent", message["id"], flush=True)
    connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
