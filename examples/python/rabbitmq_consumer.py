#!/usr/bin/env python3
"""Takes messages from RabbitMQ one at a time and writes each into a table.

    rabbitmq_consumer.py QUEUE TOPIC FILE

TOPIC may be a pattern: order.*, order.#. FILE is an SQLite database, made when it is not there.
The server is that of AMQP_URL.
"""
import os
import sqlite3
import sys

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672")
EXCHANGE = os.environ.get("EXCHANGE", "twinbox")


def open_table(file):
    table = sqlite3.connect(file)
    table.execute(
        "create table if not exists effects"
        " (source text, id text, key text, data text, primary key (source, id))"
    )
    return table


def work(table, headers, body):
    """Does what the message asks for, once. Returns False if that was done before."""
    identity = headers["cloudEvents:source"], headers["cloudEvents:id"]
    # The effect and the identity of the message are one row. When the program dies before it has
    # acknowledged, the message comes again, and the row says that nothing is left to do.
    with table:
        done = table.execute(
            "insert into effects values (?, ?, ?, ?) on conflict do nothing",
            (*identity, headers.get("cloudEvents:partitionkey"), body.decode()),
        )
    return done.rowcount == 1


def main(queue, topic, file):
    table = open_table(file)
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.exchange_declare(EXCHANGE, exchange_type="topic", durable=True)
    # A second copy of this program waits for the first one's end, so the messages of a key stay
    # in order. With a limit, what is given back comes first again; this one is never reached.
    settings = {"x-single-active-consumer": True, "x-delivery-limit": 2**31 - 1}
    settings["x-queue-type"] = "quorum"
    channel.queue_declare(queue, durable=True, arguments=settings)
    channel.queue_bind(queue, EXCHANGE, routing_key=topic)
    # One message at a time: while this one is at work, the server keeps the rest.
    channel.basic_qos(prefetch_count=1)

    def on_message(channel, method, properties, body):
        try:
            new = work(table, properties.headers, body)
        except Exception as error:
            print(f"failed, goes back: {error!r}", file=sys.stderr, flush=True)
            # Not time.sleep(): the connection has to answer heartbeats meanwhile.
            connection.sleep(1)
            channel.basic_nack(method.delivery_tag, requeue=True)
        else:
            print("done" if new else "again", body.decode(), flush=True)
            # Only now. Acknowledged before the work, it would be lost with this program.
            channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, on_message)
    print("waiting for", topic, flush=True)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
