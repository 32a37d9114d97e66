"""Where the master key comes from, and that it shows nowhere."""

import base64
import errno
import os
import shlex
from pathlib import Path

import pytest

from cache_tiers.ssd.files import OsFiles
from cache_tiers.ssd.master_key import MasterKeyError, MasterKeySource, create_key_file
from cache_tiers.store import StoreUnusable

KEY = bytes(range(100, 132))
HEX = KEY.hex()
BASE64 = base64.b64encode(KEY).decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "master.key"


def hold(path: Path, text: str, mode: int = 0o600) -> MasterKeySource:
    path.write_text(text)
    path.chmod(mode)
    return MasterKeySource.parse(f"file:{path}")


def shell(script: str) -> MasterKeySource:
    return MasterKeySource.parse(f"command:/bin/sh -c {shlex.quote(script)}")


def refused(source: MasterKeySource, limit_s: float = 60.0, **environ: str) -> str:
    """The message, which is one line, names the source and has no key in it."""
    with pytest.raises(MasterKeyError) as caught:
        source.read(environ, limit_s)
    message = str(caught.value)
    assert message.startswith(f"no master key from {source}: ")
    assert "\n" not in message
    assert not any(secret in message for secret in (HEX, HEX.upper(), BASE64, HEX[:60]))
    assert caught.value.__cause__ is None
    return message


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
@pytest.mark.parametrize("text", [HEX, HEX.upper(), BASE64])
def test_a_key_from_each_source(path: Path, text: str, ending: str) -> None:
    assert hold(path, text + ending).read({}) == KEY
    assert MasterKeySource.parse("env:THE_KEY").read({"THE_KEY": text + ending}) == KEY
    assert shell(f"printf %s {shlex.quote(text + ending)}").read({}) == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        BASE64,
        "file:",
        f"file:{HEX}",
        "file:relative/key",
        "file:~/key",
        "file:/with\0null",
        "env:",
        f"env:a{HEX}",
        f"env:k{BASE64[:42]}",
        "env:1ST",
        "env:A-B",
        "command:",
        "command: ",
        "command:'open",
        "command:echo \0",
        "vault:secret",
        "FILE:/key",
    ],
)
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(ValueError, match="file:/absolute/path, env:NAME") as caught:
        MasterKeySource.parse(text)
    assert HEX not in str(caught.value)
    assert BASE64[:42] not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        HEX[:-2],
        HEX + "00",
        f" {HEX}",
        f"{HEX}\n\n",
        f"{HEX[:32]} {HEX[32:]}",
        base64.b64encode(KEY[:31]).decode(),
        base64.b64encode(KEY + b"x").decode(),
        BASE64[:-1],
        f"{BASE64[:20]}\n{BASE64[20:]}",
        "é" * 32,
        HEX * 100,
    ],
)
def test_what_is_no_key(path: Path, text: str) -> None:
    assert "64 hexadecimal digits" in refused(hold(path, text))
    if text:
        assert "64 hexadecimal digits" in refused(MasterKeySource.parse("env:K"), K=text)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o644, 0o601])
def test_a_file_that_others_may_use(path: Path, mode: int) -> None:
    assert "chmod 600" in refused(hold(path, HEX, mode))


def test_a_file_that_is_not_there(path: Path) -> None:
    assert "No such file" in refused(MasterKeySource.parse(f"file:{path}"))


def test_a_symbolic_link(path: Path) -> None:
    hold(path, HEX)
    link = path.with_name("link")
    link.symlink_to(path)
    assert "symbolic link" in refused(MasterKeySource.parse(f"file:{link}"))


def test_what_is_not_a_file(path: Path) -> None:
    path.mkdir(mode=0o700)
    assert "not a regular file" in refused(MasterKeySource.parse(f"file:{path}"))
    pipe = path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert "not a regular file" in refused(MasterKeySource.parse(f"file:{pipe}"))


def test_a_file_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = hold(path, HEX)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    assert "another user" in refused(source)


def test_a_variable_that_is_not_set() -> None:
    assert "not set" in refused(MasterKeySource.parse("env:K"))
    assert "not set" in refused(MasterKeySource.parse("env:K"), K="")


def test_a_command_gets_the_environment_and_no_shell() -> None:
    assert shell('printf %s "$SECRET"').read({"SECRET": HEX}) == KEY
    assert "64 hexadecimal" in refused(MasterKeySource.parse("command:/bin/echo $K"), K=HEX)


def test_a_command_that_fails(capfd: pytest.CaptureFixture[str]) -> None:
    assert "status 3" in refused(shell(f"echo {HEX}; echo {HEX} >&2; exit 3"))
    assert "status -9" in refused(shell("kill -9 $$"))
    assert "No such file" in refused(MasterKeySource.parse("command:/no/such/program x"))
    assert "64 hexadecimal" in refused(shell(f"echo {HEX} >&2"))
    assert capfd.readouterr() == ("", "")


def test_a_command_that_does_not_end() -> None:
    assert "within 0.2 s" in refused(shell("exec sleep 60"), 0.2)
    assert "within 0.2 s" in refused(shell(f"echo {HEX}; exec >&-; exec sleep 60"), 0.2)


def test_a_command_that_does_not_stop_printing() -> None:
    assert "more than a key" in refused(shell(f"while echo {HEX}; do :; done"))


def test_as_text_a_source_shows_no_secret() -> None:
    source = MasterKeySource.parse(f"command:kms --token {HEX}")
    for text in (repr(source), str(source), f"{source}", repr([source])):
        assert "command:kms" in text
        assert HEX not in text


def test_only_a_file_has_a_path(path: Path) -> None:
    sources = [f"file:{path}", "env:K", f"command:{path}"]
    assert [MasterKeySource.parse(text).path for text in sources] == [path, None, None]


def test_a_new_key_file(path: Path) -> None:
    create_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    key = MasterKeySource.parse(f"file:{path}").read({})
    assert path.read_text() == key.hex() + "\n"
    other = path.with_name("other")
    create_key_file(other)
    assert MasterKeySource.parse(f"file:{other}").read({}) != key


def test_a_key_file_is_never_replaced(path: Path) -> None:
    hold(path, HEX)
    with pytest.raises(FileExistsError):
        create_key_file(path)
    assert path.read_text() == HEX


@pytest.mark.parametrize("call", ["create", "write", "sync", "sync_folder"])
def test_a_key_file_that_cannot_be_made_is_not_there(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = OsFiles()
    monkeypatch.setattr(files, call, fail)
    with pytest.raises(MasterKeyError, match=r"master\.key cannot be made: No space left"):
        create_key_file(path, files)
    assert not path.exists()


def test_the_file_and_then_its_folder_are_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    files = OsFiles()
    for call in ("create", "write", "sync", "sync_folder"):
        real = getattr(files, call)

        def noted(*given: object, call: str = call, real: object = real) -> object:
            done.append(call)
            return real(*given)  # type: ignore[operator]

        monkeypatch.setattr(files, call, noted)
    create_key_file(path, files)
    assert done == ["create", "write", "sync", "sync_folder"]


def test_it_is_a_store_that_cannot_be_used() -> None:
    assert issubclass(MasterKeyError, StoreUnusable)
