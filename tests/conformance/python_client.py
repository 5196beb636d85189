#!/usr/bin/env python3
"""A Python client of the native API with grpcio alone; run it where caravan/v1/generation.proto can be found.

    PYTHONPATH=proto python3 tests/conformance/python_client.py HOST:PORT PROMPT MAX_TOKENS

Generates greedily, once by Generate and once on a Session, and writes both texts as they come, a line each.
"""

import sys

import grpc

messages, services = grpc.protos_and_services("caravan/v1/generation.proto")


def make_request(prompt, max_tokens, request_id=""):
    return messages.GenerateRequest(
        request_id=request_id, prompt=[messages.PromptPart(text=prompt.encode())],
        sampling=messages.SamplingParams(temperature=0), stopping=messages.StoppingParams(max_tokens=max_tokens))


def show(event):
    sys.stdout.buffer.write(event.tokens.text)
    sys.stdout.flush()


def main():
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} HOST:PORT PROMPT MAX_TOKENS")
    address, prompt, max_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with grpc.insecure_channel(address) as channel:
        stub = services.GenerationStub(channel)
        try:
            for event in stub.Generate(make_request(prompt, max_tokens)):
                show(event)
            print()
            start = messages.SessionRequest(start=make_request(prompt, max_tokens, request_id="a"))
            for message in stub.Session(iter([start])):
                show(message.event.event)
            print()
        except grpc.RpcError as error:
            sys.exit(error.details())


if __name__ == "__main__":
    main()
