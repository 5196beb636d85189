"""Plain HTTP requests to the Triton door, for what no client library would send."""

import http.client
import json
import socket


def ask(address, method, path, body=None, headers=None, timeout=60):
    """Returns (status, headers, body bytes)."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def ask_json(address, method, path, body=None, headers=None):
    """Returns (status, parsed body)."""
    status, _, text = ask(address, method, path, body, headers)
    return status, json.loads(text) if text else None


def events(address, path, body, timeout=60):
    """The events of a generate_stream, parsed; the answer must be a stream."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("POST", path, body=json.dumps(body).encode())
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        buffer = b""
        while piece := response.read1():
            buffer += piece
            while b"\n\n" in buffer:
                event, buffer = buffer.split(b"\n\n", 1)
                assert event.startswith(b"data: "), event
                yield json.loads(event[len(b"data: "):])
        assert not buffer, "the stream ended inside an event"
    finally:
        connection.close()


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30)


def ensemble_inputs(prompt, max_tokens=16, rows=1, **scalars):
    """Inputs of an infer request in JSON; `scalars`: name=(datatype, value)."""
    def tensor(name, datatype, value):
        return {"name": name, "datatype": datatype, "shape": [rows, 1], "data": [[value]] * rows}

    return [tensor("INPUT_0", "BYTES", prompt), tensor("INPUT_1", "UINT32", max_tokens),
            tensor("INPUT_2", "BYTES", ""), tensor("INPUT_3", "BYTES", ""),
            *(tensor(name, datatype, value) for name, (datatype, value) in scalars.items())]


def output_of(answer, name):
    return next(output for output in answer["outputs"] if output["name"] == name)
