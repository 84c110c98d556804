"""The Hugging Face hub, played by a server on this machine; the client is the real one."""

import base64
import hashlib
import json
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, constants

import oat_bench
from oat_bench.errors import UserError

DIGITS = Path(__file__).parents[2] / "leaderboards" / "digits" / "Linf"
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as pushing and loading files needs."""

    def log_message(self, *_):
        pass

    def answer(self, content, code=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_right":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            server.repositories.setdefault(name, {})
            server.private[name] = asked.get("visibility") == "private" or asked.get("private")
            self.answer({"url": f"{server.address}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]
            ]
            self.answer({"files": [{**file, "shouldIgnore": False} for file in files]})
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    server.repositories[name][line["value"]["path"]] = content
            self.answer(
                {"commitUrl": f"{server.address}/{name}/commit/{COMMIT}"} | {"commitOid": COMMIT}
            )
        else:
            self.answer({}, 404)

    def do_GET(self):
        name, _, file = self.path.removeprefix("/").partition("/resolve/main/")
        files = self.server.repositories.get(name)
        if files is None:
            self.answer({}, 404, X_Error_Code="RepoNotFound")
        elif file not in files:
            self.answer({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            tag = hashlib.sha1(files[file]).hexdigest()
            self.answer(files[file], ETag=f'"{tag}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories, server.private = {}, {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    point_at(server.address, tmp_path / "hub", monkeypatch)
    yield server
    server.shutdown()
    server.server_close()


def point_at(address, cache, monkeypatch):
    files = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", "hf_right")


def test_what_is_pushed_is_loaded_by_anybody(hub, invoke, monkeypatch):
    code, out, err = invoke("leaderboard", "push", "digits/oats-wrn-10-1", "lab/oats", "--private")
    assert (code, out) == (0, f"{hub.address}/lab/oats\n"), err
    assert hub.private == {"lab/oats": True}
    assert set(hub.repositories["lab/oats"]) == {
        "README.md",
        "checkpoint.safetensors",
        "entry.json",
    }
    own = json.loads((DIGITS / "oats-wrn-10-1.json").read_text())["model_fingerprint"]
    assert oat_bench.load("hf:lab/oats").fingerprint() == own
    assert oat_bench.load("hf:lab/oats@main").fingerprint() == own
    # from now on without the hub
    hub.repositories.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, _ = invoke(
        "evaluate", "hf:lab/oats", "--attacks", "fgsm", "--n-examples", 20, "--lambda", 1
    )
    assert code == 0
    assert "**digits, wrn-10-1, OATS, Linf eps" in out


def test_a_file_in_the_hub_s_own_cache_needs_no_network(tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--lab--net"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copy(DIGITS / "oat-wrn-10-1.safetensors", snapshot / "checkpoint.safetensors")
    point_at("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    own = oat_bench.load("digits/oat-wrn-10-1").fingerprint()
    assert oat_bench.load("hf:lab/net").fingerprint() == own
    with pytest.raises(UserError, match=r"hf:lab/other: the hub cannot be reached.*copy it$"):
        oat_bench.load("hf:lab/other")


def test_the_card_says_what_the_entry_says(invoke, tmp_path):
    code, out, _ = invoke(
        "leaderboard", "push", "digits/oats-wrn-10-1", "lab/oats", "--out", "card"
    )
    assert code == 0
    assert [Path(line).name for line in out.split()] == [
        "README.md",
        "entry.json",
        "checkpoint.safetensors",
    ]
    entry = json.loads((DIGITS / "oats-wrn-10-1.json").read_text())
    assert json.loads((tmp_path / "card" / "entry.json").read_text()) == entry
    card = ModelCard((tmp_path / "card" / "README.md").read_text())
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert {"adversarial-robustness", "oats"} <= set(card.data.tags)
    assert card.data.metrics == ["accuracy"]
    said = {result.metric_name: result.metric_value for result in card.data.eval_results}
    for point in entry["operating_points"]:
        width = "" if point["width"] == 1 else f", width {point['width']:g}"
        where = f"lambda {point['lam']:g}{width}"
        assert said[f"SA, {where}"] == point["clean_acc"]
        assert said[f"RA (worst), {where}"] == point["worst_case_acc"]["value"]
    assert len(said) == 2 * len(entry["operating_points"])
    assert 'oat_bench.load("hf:lab/oats")' in card.text
    assert entry["model_fingerprint"] in card.text
    assert "attack integrity: fail" in card.text
    # every number of the table, as the table of the entry has it
    table = invoke("leaderboard", "table", str(DIGITS / "oats-wrn-10-1.json"))[1]
    assert table.strip() in card.text


def test_a_known_data_set_is_linked(invoke, tmp_path):
    invoke(
        "leaderboard",
        "push",
        "cifar10/oat-wrn-16-2",
        "lab/oat",
        "--out",
        "card",
        "--license",
        "mit",
    )
    card = ModelCard((tmp_path / "card" / "README.md").read_text())
    assert card.data.datasets == ["uoft-cs/cifar10"]
    assert card.data.license == "mit"


def test_text_of_an_entry_stays_text(tmp_path, hostile):
    from oat_bench.leaderboards.hub import model_card
    from oat_bench.results.records import Record, read

    record = read(DIGITS / "oat-wrn-10-1.json")
    texts = dict.fromkeys(("name", "authors", "footnote", "command"), f'{hostile}\n---\n"{{}}: # x')
    entry = record.entry.model_copy(update=texts)
    page = model_card(Record(record.path, entry), "lab/oat", "mit", 0.5)
    _, front, body = page.split("---\n", 2)
    assert yaml.safe_load(front)["model-index"][0]["name"] == texts["name"]
    assert not re.search(r"(?<!\\)<[a-z!/]", body.partition("Measured by")[0])
    assert body.partition("Measured by")[2].count("\n") == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "hf:lab/net: no such repository, or a private one"),
        ({"pytorch_model.bin": b"cos\nsystem\n(S'touch pwned'\ntR."}, "it has no checkpoint.safe"),
        ({"checkpoint.safetensors": b"cos\nsystem\n(S'touch pwned'\ntR."}, "not a safetensors"),
    ],
)
def test_what_is_no_checkpoint_of_ours_is_refused(hub, invoke, tmp_path, files, message):
    if files is not None:
        hub.repositories["lab/net"] = files
    code, _, err = invoke("evaluate", "hf:lab/net")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "pwned").exists()


def test_pushing_what_does_not_go_together_is_refused(hub, invoke, tmp_path):
    place = tmp_path / "digits" / "Linf"
    place.mkdir(parents=True)
    for ending in (".json", ".integrity.json"):
        shutil.copy(DIGITS / f"oat-wrn-10-1{ending}", place / f"x{ending}")
    refusals = [
        (["digits/Linf/x.json", "lab/net"], "no checkpoint at digits/Linf/x.safetensors"),
        (["nowhere.json", "lab/net"], "no entry at nowhere.json"),
        (["digits/oat-wrn-10-2", "lab/net"], "did you mean digits/oat-wrn-10-1"),
        (["digits/oat-wrn-10-1", "net"], "'net' is no repository of the hub; expected OWNER/NAME"),
    ]
    for arguments, message in refusals:
        code, _, err = invoke("leaderboard", "push", *arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
    shutil.copy(DIGITS / "oats-wrn-10-1.safetensors", place / "x.safetensors")
    code, _, err = invoke("leaderboard", "push", "digits/Linf/x.json", "lab/net")
    assert code == 2
    assert "x.safetensors is another model" in err
    assert hub.repositories == {}


def test_without_the_right_to_write_one_line_says_so(hub, invoke, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, err = invoke("leaderboard", "push", "digits/oat-wrn-10-1", "lab/net")
    assert code == 2
    assert "hf auth login" in err
    assert hub.repositories == {}


def test_without_the_library_one_line_names_the_extra(monkeypatch, invoke):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for command in (
        ["evaluate", "hf:lab/net"],
        ["leaderboard", "push", "digits/oat-wrn-10-1", "a/b"],
    ):
        code, _, err = invoke(*command)
        assert code == 2
        assert "pip install 'oat-bench[hub]'" in err
