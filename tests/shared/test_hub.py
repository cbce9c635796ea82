"""Whether the hub answers, asked of a server of this test."""

from __future__ import annotations

import http.server
import socket
import threading

import pytest

from autotune.shared import hub


@pytest.fixture
def served(monkeypatch):
    """A hub that answers with a status; the requests that it got."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            """Nothing is printed."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.status = 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server, asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_any_status_is_an_answer_and_one_request_is_enough(served, status):
    server, asked = served
    server.status = status
    assert hub.hub_answers()
    assert len(asked) == 1


def test_a_hub_that_refuses_or_never_answers_does_not(monkeypatch, served):
    with socket.socket() as silent:  # accepts, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert not hub.hub_answers(timeout_s=0.2)
    assert not hub.hub_answers(timeout_s=0.2)  # nobody listens there any more
    monkeypatch.setenv("HF_ENDPOINT", "no address")
    assert not hub.hub_answers()


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_who_asked_to_be_offline_is_not_connected(monkeypatch, served, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert not hub.hub_answers()
    assert served[1] == []


def test_the_library_of_the_hub_is_kept_to_its_cache(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.use_cache_only()
    assert constants.HF_HUB_OFFLINE
