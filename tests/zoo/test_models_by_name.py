"""Models by name: in the checkout, in the wheel, in the cache, downloaded."""

import hashlib
import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import oat_bench
from oat_bench import cards
from oat_bench.errors import UserError
from oat_bench.zoo import published

SHIPPED = Path(__file__).parents[2] / "leaderboards"
DIGITS = SHIPPED / "digits" / "Linf"
PLACES = sorted(
    file.relative_to(SHIPPED).with_suffix("").as_posix() for file in SHIPPED.rglob("*.safetensors")
)
BROKEN = "http://127.0.0.1:9/leaderboards"  # nothing listens there


def fingerprint(entry):
    return json.loads(entry.read_text())["model_fingerprint"]


@pytest.mark.parametrize("place", PLACES)
def test_every_published_model_has_a_name_and_is_what_its_entry_says(place):
    name = place.replace("/Linf/", "/")  # the threat model that names leave out
    own = fingerprint(SHIPPED / f"{place}.json")
    assert oat_bench.load(name).fingerprint() == own
    assert published.find(place) == published.find(name)


def test_a_mistyped_name_gets_the_nearest_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in ("cifar10/oat-wrn-16-4", "cifar-10/oat-wrn-16-2", "cifar10/Linf/oat-wrn-16"):
        with pytest.raises(UserError, match=r"did you mean cifar10/oat-wrn-16-2") as error:
            oat_bench.load(wrong)
        assert f"no checkpoint at {wrong}" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="oat-bench list models"):
        oat_bench.load("somewhere/else")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What a wheel has where the model is too large for it: entries and an index."""
    folder, cache = tmp_path / "cards" / "leaderboards", tmp_path / "cache"
    index = {}
    for place in ("digits/Linf/oat-wrn-10-1", "digits/L2/oat-wrn-10-1"):
        (folder / place).parent.mkdir(parents=True)
        shutil.copy(DIGITS / "oat-wrn-10-1.json", folder / f"{place}.json")
        content = (DIGITS / "oat-wrn-10-1.safetensors").read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        index[place] = {"bytes": len(content), "sha256": sha256}
    (folder / published.INDEX).write_text(json.dumps(index))
    monkeypatch.setattr(cards, "folder", lambda kind: tmp_path / "cards" / kind)
    monkeypatch.setenv("OAT_BENCH_CACHE", str(cache))
    monkeypatch.setenv("OAT_BENCH_MODELS", BROKEN)
    return cache / "models" / "digits" / "Linf" / "oat-wrn-10-1.safetensors"


@pytest.fixture
def serve():
    """Serve a folder on this machine: a function from it to its address, and what was asked."""
    servers, asked = [], []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    def start(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_is_downloaded_once_is_kept(installed, serve, monkeypatch, capsys):
    address, asked = serve(SHIPPED)
    monkeypatch.setenv("OAT_BENCH_MODELS", address)
    own = fingerprint(DIGITS / "oat-wrn-10-1.json")
    assert oat_bench.load("digits/oat-wrn-10-1").fingerprint() == own
    assert asked == ["/digits/Linf/oat-wrn-10-1.safetensors"]
    assert "downloading" in capsys.readouterr().err
    assert installed.read_bytes() == (DIGITS / "oat-wrn-10-1.safetensors").read_bytes()
    monkeypatch.setenv("OAT_BENCH_MODELS", BROKEN)
    assert oat_bench.load("digits/Linf/oat-wrn-10-1").fingerprint() == own


def test_a_damaged_copy_is_downloaded_again(installed, monkeypatch):
    content = (DIGITS / "oat-wrn-10-1.safetensors").read_bytes()
    installed.parent.mkdir(parents=True)
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:100], b""):
        installed.write_bytes(damaged)
        monkeypatch.setenv("OAT_BENCH_MODELS", SHIPPED.as_uri())
        oat_bench.load("digits/oat-wrn-10-1")
        assert installed.read_bytes() == content


def test_without_a_network_one_line_says_what_to_put_where(installed):
    with pytest.raises(UserError) as error:
        oat_bench.load("digits/oat-wrn-10-1")
    message = str(error.value)
    assert "cannot be downloaded (Connection refused)" in message
    assert f"put {BROKEN}/digits/Linf/oat-wrn-10-1.safetensors at {installed}" in message
    assert "\n" not in message
    shutil.copy(DIGITS / "oat-wrn-10-1.safetensors", installed)
    oat_bench.load("digits/oat-wrn-10-1")


@pytest.mark.parametrize("changed", ["another", "longer", "shorter", "missing"])
def test_nothing_but_what_was_published_is_taken(installed, serve, tmp_path, monkeypatch, changed):
    there = tmp_path / "elsewhere" / "digits" / "Linf" / "oat-wrn-10-1.safetensors"
    there.parent.mkdir(parents=True)
    content = (DIGITS / "oat-wrn-10-1.safetensors").read_bytes()
    another = (DIGITS / "oats-wrn-10-1.safetensors").read_bytes()
    sent = {"another": another, "longer": content + b"x", "shorter": content[:-1]}
    if changed in sent:
        there.write_bytes(sent[changed])
    monkeypatch.setenv("OAT_BENCH_MODELS", serve(tmp_path / "elsewhere")[0])
    expected = "cannot be downloaded" if changed == "missing" else "SHA-256 differs"
    with pytest.raises(UserError, match=expected):
        oat_bench.load("digits/oat-wrn-10-1")
    assert list(installed.parent.iterdir()) == []


def test_another_threat_model_is_named(installed, monkeypatch):
    assert [model.name for model in published.models()] == [
        "digits/L2/oat-wrn-10-1",
        "digits/oat-wrn-10-1",
    ]
    with pytest.raises(UserError, match=r"put .*/digits/L2/oat-wrn-10-1.safetensors at"):
        oat_bench.load("digits/L2/oat-wrn-10-1")


def test_a_cache_that_cannot_be_written_is_said(installed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OAT_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"choose another folder with \$OAT_BENCH_CACHE"):
        oat_bench.load("digits/oat-wrn-10-1")


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch):
    for variable in ("OAT_BENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    assert published.cache() == Path("/home/u/.cache/oat-bench")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert published.cache() == Path("/c/oat-bench")
    monkeypatch.setenv("OAT_BENCH_CACHE", "~/own")
    assert published.cache() == Path("/home/u/own")
