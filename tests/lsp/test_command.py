"""`dslc lsp` as a command: without its package, and on a TCP port."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time

import pytest

from dslc.cli import EXIT_MACHINE, main


def test_without_pygls_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dslc.commands.lsp.find_spec", lambda name: None)
    assert main(["lsp"]) == EXIT_MACHINE
    told = capsys.readouterr().err
    assert told == "error: the language server needs the package pygls: pip install 'dslc[lsp]'\n"
    assert importlib.util.find_spec("pygls") is not None


def test_over_a_socket() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dslc", "lsp", "--tcp", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            client = _connect(port)
            with client, client.makefile("rb") as answers:
                body = json.dumps(
                    {
                        "jsonrpc": "2.0",
                        "id": 1,
                        "method": "initialize",
                        "params": {"processId": None, "rootUri": None, "capabilities": {}},
                    }
                ).encode()
                client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                length = int(answers.readline().split(b":")[1])
                while answers.readline().strip():
                    pass
                answer = json.loads(answers.read(length))
            assert answer["result"]["serverInfo"]["name"] == "dslc"
        finally:
            server.terminate()


def _connect(port: int) -> socket.socket:
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError("the server does not listen")
