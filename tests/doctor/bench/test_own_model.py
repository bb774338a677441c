"""The user's own model is refused in one sentence when it cannot be examined safely."""

from __future__ import annotations

import http.server
import json
import os
import threading

import pytest

from ftdoctor.bench.hub import fetch
from ftdoctor.bench.models import refuse_unsafe, user_family
from ftdoctor.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    """A folder as `save_pretrained` writes it."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_a_folder_of_safetensors_is_taken(folder):
    """And its family read from its config."""
    refuse_unsafe(folder, trust_remote_code=False)

    assert user_family(folder).name == "qwen3"


def test_without_a_config_or_safetensors_it_is_refused(folder):
    """Pickled weights can run code while they are loaded."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors weights, and pickled weights are never loaded"):
        refuse_unsafe(folder, trust_remote_code=True)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        refuse_unsafe(folder, trust_remote_code=True)


def test_code_that_comes_with_a_model_needs_trust(folder):
    """Never by default."""
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ModelError, match="add --trust-remote-code if you trust it"):
        refuse_unsafe(folder, trust_remote_code=False)
    refuse_unsafe(folder, trust_remote_code=True)


FILES = {
    "config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickled",
    "modeling_evil.py": b"raise SystemExit",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine that serves one small model."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            name = self.path.split("?")[0].rpartition("/")[2]
            if self.path.startswith("/api/models/some/model/revision/"):
                listed = {"id": "some/model", "sha": COMMIT, "siblings": [{"rfilename": f} for f in FILES]}
                data = json.dumps(listed).encode()
            elif self.path.startswith("/api/models/some/model/tree/"):
                data = json.dumps(
                    [{"type": "file", "path": f, "size": len(d), "oid": f} for f, d in FILES.items()]
                ).encode()
            elif self.path.startswith("/some/model/resolve/") and name in FILES:
                data = FILES[name]
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{name}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.stack
def test_a_model_is_fetched_from_the_hub_without_its_pickles_and_its_code(hub):
    """From a real HTTP server."""
    folder = fetch("some/model")

    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.stack
def test_what_cannot_be_fetched_is_one_sentence(hub):
    """With the hub's own reason."""
    with pytest.raises(ModelError, match="'no/model' could not be fetched from the hub") as caught:
        fetch("no/model")
    assert "\n" not in str(caught.value)
    assert os.environ["HF_ENDPOINT"]
