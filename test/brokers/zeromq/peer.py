"""Either end of what docs/zeromq.md says of the wire, in Python: `peer.py send ADDRESS` or `peer.py receive ADDRESS`.

The sender takes lines of JSON with id, headers and body, and prints each answer. The receiver prints what it gets, and acknowledges it
unless its topic begins with "refused".
"""

import json
import sys

import zmq


def tell(*frames):
    print(json.dumps([frame.decode() for frame in frames]), flush=True)


def send(address):
    socket = zmq.Context().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(address)
    waiting = 0
    for line in sys.stdin:
        message = json.loads(line)
        headers = json.dumps(message["headers"])
        socket.send_multipart([message["id"].encode(), headers.encode(), message["body"].encode()])
        waiting += 1
    for _ in range(waiting):
        tell(*socket.recv_multipart())


def receive(address):
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(address)
    while True:
        peer, id, headers, body = socket.recv_multipart()
        tell(id, headers, body)
        # Here a program would commit what it has got. Only then it says so.
        if json.loads(headers)["ce_type"].startswith("refused"):
            socket.send_multipart([peer, id, b"no", b"I do not take these."])
        else:
            socket.send_multipart([peer, id, b"ok"])


{"send": send, "receive": receive}[sys.argv[1]](sys.argv[2])
