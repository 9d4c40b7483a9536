"""The options of `nnsam3d serve`: keys, addresses, certificates, proxies."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from nnsam3d.commands import serve
from nnsam3d.errors import UserError


def given(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return parser.parse_args(["-m", "model", *options])


def test_a_key_that_other_users_cannot_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ps` shows what is given with --key."""
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    assert serve._key(given()) is None
    monkeypatch.setenv(serve.KEY_VARIABLE, "from the environment")
    assert serve._key(given()) == "from the environment"
    file = tmp_path / "key"
    file.write_text("from a file\n")
    assert serve._key(given("--key-file", str(file))) == "from a file"
    assert serve._key(given("--key", "given")) == "given"
    file.write_text("\n")
    for wrong in (file, tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match="--key-file"):
            serve._key(given("--key-file", str(wrong)))


@pytest.mark.parametrize("key", ["&#%", "a b", "ü?=/", "plain"])
def test_the_address_that_is_printed_contains_the_key(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = SimpleNamespace(folder=Path("model"), folds=["0"])
    serve._print_addresses(model, "cpu", 1527, given("--host", "::1", "--prefix", "seg"), key)
    printed = capsys.readouterr().out
    address = urlsplit(next(line.split()[2] for line in printed.splitlines() if "page" in line))
    assert (address.hostname, address.port, address.path) == ("::1", 1527, "/seg/")
    assert parse_qs(address.query) == {"key": [key]}
    assert "not encrypted" not in printed
    serve._print_addresses(model, "cpu", 1527, given("--host", "0.0.0.0"), key)
    assert "not encrypted" in capsys.readouterr().out
    serve._print_addresses(model, "cpu", 1527, given("--host", "0.0.0.0", "--tls-cert", "x.pem"), key)
    printed = capsys.readouterr().out
    assert "https://0.0.0.0:1527" in printed
    assert "not encrypted" not in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--copy"], "--copy requires --output"),
        (["--tls-key", "x"], "--tls-key requires --tls-cert"),
        (["--tls-cert", "missing.pem"], "--tls-cert missing.pem: no such file"),
        (["--key", "a", "--key-file", "b"], "only one of them"),
        (["--allow-host", "https://hub.example.org"], "names only"),
        (["--output", "out"], "--output requires --images"),
        (["--port", "99999"], "--port 99999"),
        (["--memory", "0"], "--memory 0"),
    ],
)
def test_options_that_cannot_be(options: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        serve._check(given(*options))
    assert words in str(error.value)
