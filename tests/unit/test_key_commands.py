"""``valet keys`` and ``valet tenants``, as an operator types them."""

import re
from pathlib import Path

import pytest

from app.cli import main
from app.operating import table


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALET_HOME", str(tmp_path / "home"))


class Shell:
    """Runs commands; keeps what they said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.err = ""

    def __call__(self, *arguments: str, code: int = 0) -> str:
        assert main(arguments) == code
        captured = self._capsys.readouterr()
        self.err = captured.err
        return captured.out

    def add(self, *arguments: str) -> tuple[str, str]:
        """A new key: its id, and itself."""
        key = self("keys", "add", *arguments).strip()
        match = re.fullmatch(r"vk_([0-9a-f]{12})_[\w-]{43}", key)
        assert match
        return match[1], key


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_key_is_shown_once(shell: Shell, tmp_path: Path) -> None:
    key_id, key = shell.add("alice", "--label", "a laptop", "--expires", "90d")
    assert "shown this once" in shell.err
    assert key not in shell.err
    listed = shell("keys", "list")
    assert f"{key_id}  alice   valid" in listed
    assert "a laptop" in listed
    secret = key.split("_", 2)[2]
    assert secret not in listed
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert files
    assert all(secret.encode() not in path.read_bytes() for path in files)


def test_rotate_and_revoke(shell: Shell) -> None:
    old, _ = shell.add("alice", "--label", "ci")
    assert shell("keys", "rotate", old, "--overlap", "0s").startswith("vk_")
    assert "which works for another 0:00:00" in shell.err
    shell.add("bob")
    states = [line.split()[1:3] for line in shell("keys", "list").splitlines()[1:]]
    assert sorted(states) == [["alice", "expired"], ["alice", "valid"], ["bob", "valid"]]
    lines = shell("keys", "list", "--tenant", "bob").splitlines()
    assert "is revoked" in shell("keys", "revoke", lines[1].split()[0])
    assert "revoked" in shell("keys", "list", "--tenant", "bob")


def test_what_cannot_be_done_is_one_line(shell: Shell) -> None:
    for arguments, message in (
        (("add", "a/b"), "a tenant's name has"),
        (("add", "public"), "public is a name"),
        (("rotate", "none"), "there is no key none"),
        (("revoke", "none"), "there is no key none"),
    ):
        assert shell("keys", *arguments, code=2) == ""
        assert shell.err.startswith(f"valet: {message}")
        assert shell.err.count("\n") == 1
    shell("tenants", "show", "nobody", code=2)
    assert shell.err == "valet: there is no tenant nobody\n"
    assert shell("keys", "list") == "there are no keys\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys"],
        ["keys", "add"],
        ["keys", "add", "a", "--expires", "soon"],
        ["keys", "rotate", "a", "--overlap", "-1s"],
        ["keys", "add", "a", "--expires", "9999d"],
        ["tenants", "set", "a", "--sessions", "many"],
        ["tenants", "set", "a", "--dram", "1GB"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2


def test_a_label_cannot_move_the_cursor(shell: Shell) -> None:
    shell.add("alice", "--label", "x\x1b[2Jy\nz")
    assert "x?[2Jy?z" in shell("keys", "list")


def test_quotas_of_a_tenant(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALET_QUOTA_SESSIONS", "9")
    said = shell("tenants", "set", "alice", "--requests-per-minute", "60", "--dram", "1GiB")
    assert re.search(r"requests_per_minute +60\n", said)
    assert re.search(r"sessions +9 +\(the installation's\)", said)
    assert re.search(r"dram +1.0GiB\n", said)
    shell("tenants", "set", "alice", "--dram", "default", "--sessions", "0")
    said = shell("tenants", "show", "alice")
    assert re.search(r"requests_per_minute +60\n", said)
    assert re.search(r"sessions +no limit\n", said)
    assert re.search(r"dram +no limit +\(the", said)
    shell.add("bob")
    names = [line.split()[0] for line in shell("tenants", "list").splitlines()]
    assert names == ["TENANT", "alice", "bob"]


def test_a_database_that_cannot_be_had(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALET_DATABASE_URL", "sqlite+aiosqlite:////proc/none/valet.db")
    assert shell("keys", "list", code=2) == ""
    assert shell.err.startswith("valet: ")


def test_a_table() -> None:
    assert table([("a", "b"), ("long", "")]) == ["a     b", "long"]
