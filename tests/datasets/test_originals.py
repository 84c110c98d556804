"""Downloads from a server of the tests' own, checksums, and no network at all."""

import http.server
import shutil
import socket
import threading

import pytest
import torchvision.datasets as published
from formats import md5, pack

from oat_bench import datasets
from oat_bench.datasets import originals
from oat_bench.errors import UserError


@pytest.fixture
def server(tmp_path):
    """Serve a folder: its path and address; the requests are listed in ``server.seen``."""
    root = tmp_path / "served"
    root.mkdir()
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=root)

        def log_message(self, *arguments):
            seen.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        running.root, running.seen = root, seen
        running.url = f"http://127.0.0.1:{running.server_port}"
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def unreachable(monkeypatch):
    """Point every published address to where nobody answers."""
    for name in ("CIFAR10", "STL10"):
        monkeypatch.setattr(getattr(published, name), "url", "http://127.0.0.1:9/archive.tar.gz")
    parts = published.SVHN.split_list.items()
    nowhere = {p: [f"http://127.0.0.1:9/{file}", file, old] for p, (_, file, old) in parts}
    monkeypatch.setattr(published.SVHN, "split_list", nowhere)
    monkeypatch.setattr(published.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])


def publish(monkeypatch, name, folder, server):
    """Put a data set's archive on the server, and its address and checksum into torchvision."""
    original = getattr(published, name)
    archive = pack(folder, server.root / original.filename)
    monkeypatch.setattr(original, "url", f"{server.url}/{original.filename}")
    monkeypatch.setattr(original, "tgz_md5", md5(archive))
    return archive


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_cifar10_is_downloaded_once(cifar10, bless, server, monkeypatch, tmp_path, capfd):
    folder = cifar10.write_python(tmp_path)
    (folder / "readme.html").write_text("not needed")
    bless("CIFAR10", folder)
    publish(monkeypatch, "CIFAR10", folder, server)
    data_dir = tmp_path / "new" / "data"
    data = datasets.load("cifar10", data_dir)
    assert data.fingerprint() == datasets.load("cifar10", tmp_path).fingerprint()
    notes = capfd.readouterr().err.splitlines()
    assert notes == [f"downloading {published.CIFAR10.url} to {data_dir}/cifar-10-python.tar.gz"]
    wanted = {f"cifar-10-batches-py/{path.name}" for path in folder.iterdir()}
    assert files(data_dir) == wanted - {"cifar-10-batches-py/readme.html"} | {
        "cifar-10-python.tar.gz"
    }
    requests = len(server.seen)
    datasets.load("cifar10", data_dir)
    shutil.rmtree(data_dir / "cifar-10-batches-py")
    datasets.load("cifar10", data_dir)  # from the archive that is there
    assert len(server.seen) == requests


def test_stl10_is_downloaded(stl10, bless, server, monkeypatch, tmp_path):
    folder = stl10.write(tmp_path)
    (folder / "unlabeled_X.bin").write_bytes(b"a great many")
    bless("STL10", folder)
    publish(monkeypatch, "STL10", folder, server)
    assert len(datasets.load("stl10", tmp_path / "data").test) == 20
    assert not (tmp_path / "data" / "stl10_binary" / "unlabeled_X.bin").exists()


def test_svhn_is_downloaded_and_what_came_is_kept(svhn, bless, server, monkeypatch, tmp_path):
    svhn.write(server.root)
    bless("SVHN", server.root)
    parts = published.SVHN.split_list.items()
    found = {p: [f"{server.url}/{file}", file, checksum] for p, (_, file, checksum) in parts}
    monkeypatch.setattr(published.SVHN, "split_list", found)
    hidden = (server.root / "test_32x32.mat").rename(tmp_path / "hidden")
    data_dir = tmp_path / "data"
    assert "cannot be downloaded (" in refusal(datasets.load, "svhn", data_dir)
    assert files(data_dir) == {"train_32x32.mat"}
    server.seen.clear()
    hidden.rename(server.root / "test_32x32.mat")
    assert len(datasets.load("svhn", data_dir).test) == 30
    assert "/train_32x32.mat" not in server.seen


def test_fashion_mnist_is_downloaded_and_what_came_is_kept(
    fashion_mnist, bless, server, monkeypatch, tmp_path
):
    fashion_mnist.write(server.root)
    bless("FashionMNIST", server.root)
    monkeypatch.setattr(published.FashionMNIST, "mirrors", [f"{server.url}/"])
    hidden = (server.root / "t10k-labels-idx1-ubyte.gz").rename(tmp_path / "hidden")
    data_dir = tmp_path / "data"
    assert "cannot be downloaded (" in refusal(datasets.load, "fashion-mnist", data_dir)
    came = {"train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"}
    assert files(data_dir / "FashionMNIST" / "raw") == came
    server.seen.clear()
    hidden.rename(server.root / "t10k-labels-idx1-ubyte.gz")
    assert len(datasets.load("fashion-mnist", data_dir).test) == 30
    assert "/train-images-idx3-ubyte.gz" not in server.seen
    (server.root / "t10k-images-idx3-ubyte.gz").write_bytes(b"something else")
    (data_dir / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte.gz").unlink()
    assert "did not send the published file (its MD5 differs)" in refusal(
        datasets.load, "fashion-mnist", data_dir
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("cifar10", "put http://127.0.0.1:9/archive.tar.gz there"),
        ("stl10", "put http://127.0.0.1:9/archive.tar.gz there"),
        (
            "svhn",
            "put http://127.0.0.1:9/train_32x32.mat and http://127.0.0.1:9/test_32x32.mat there",
        ),
        ("fashion-mnist", "and http://127.0.0.1:9/t10k-labels-idx1-ubyte.gz there"),
    ],
)
def test_without_files_and_without_network(unreachable, tmp_path, name, what):
    message = refusal(datasets.load, name, tmp_path / "data")
    assert message.startswith(f"{name} is not in {tmp_path}/data")
    assert " and cannot be downloaded (Connection refused)" in message
    assert what in message
    assert "name the folder that holds its files with --data-dir" in message
    assert files(tmp_path / "data") == set()


@pytest.mark.parametrize("served", ["nothing", "another", "half"])
def test_a_bad_download_leaves_nothing(svhn, bless, server, monkeypatch, tmp_path, served):
    svhn.write(server.root)
    bless("SVHN", server.root)
    parts = published.SVHN.split_list.items()
    found = {p: [f"{server.url}/{file}", file, checksum] for p, (_, file, checksum) in parts}
    monkeypatch.setattr(published.SVHN, "split_list", found)
    path = server.root / "train_32x32.mat"
    content = path.read_bytes()
    if served == "nothing":
        path.unlink()
    else:
        path.write_bytes(content[::-1] if served == "another" else content[:-9])
    message = refusal(datasets.load, "svhn", tmp_path / "data")
    expected = "(File not found)" if served == "nothing" else "not send the published file (its MD5"
    assert expected in message
    assert list((tmp_path / "data").iterdir()) == []
    path.write_bytes(content)
    assert len(datasets.load("svhn", tmp_path / "data").test) == 30


def test_a_damaged_archive_on_disk_is_named(tmp_path, unreachable):
    (tmp_path / published.CIFAR10.filename).write_bytes(b"half of it")
    expected = f"{tmp_path}: not the published cifar-10-python.tar.gz of cifar10 (MD5 differs)"
    assert expected in refusal(datasets.load, "cifar10", tmp_path)


def test_a_data_dir_that_cannot_be_one(tmp_path):
    (tmp_path / "file").touch()
    message = refusal(datasets.load, "cifar10", tmp_path / "file")
    assert f"cannot write to {tmp_path}/file" in message
    assert "--data-dir" in message


def test_a_server_that_does_not_answer_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(originals, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(published.FashionMNIST, "mirrors", [url])
        message = refusal(datasets.load, "fashion-mnist", tmp_path)
    assert "cannot be downloaded (timed out)" in message
    assert socket.getdefaulttimeout() is None
