"""A session moves to another installation and goes on there from SSD; what runs beside a server."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conversation import assistant, chat, long_text, reused, user
from tests.valet_process import REPOSITORY, ValetProcess

CHAT = "/v1/chat/completions"
PASSPHRASE = "correct horse battery staple\n"


def store(home: Path, *arguments: str) -> str:
    """What ``valet store`` prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VALET_")}
    done = subprocess.run(
        [sys.executable, "-m", "app", "store", *arguments],
        cwd=REPOSITORY,
        env=clean | {"VALET_HOME": str(home), "VALET_SSD": "2GiB"},
        input=PASSPHRASE,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_session_moves_to_another_installation(tmp_path: Path) -> None:
    ours, theirs = ValetProcess(tmp_path / "ours"), ValetProcess(tmp_path / "theirs")
    file = tmp_path / "mover.session"
    text = user(long_text("mover"))
    with ours, ours.client() as http:
        first = http.post(CHAT, json=chat(text, session_id="mover")).raise_for_status().json()
        http.post("/v1/sessions/mover/park").raise_for_status()
        assert "local/mover: " in store(ours.home, "export", "mover", "--to", str(file))
        assert ours.stop() == 0

    theirs.home.mkdir(mode=0o700)
    secret = theirs.home / "secret"
    secret.write_bytes((ours.home / "secret").read_bytes())
    secret.chmod(0o600)
    assert "imported" in store(theirs.home, "import", str(file))

    with theirs, theirs.client() as http:
        session = http.get("/v1/sessions/mover").raise_for_status().json()
        assert (session["state"], session["turns"]) == ("parked", 1)
        said = assistant(first["choices"][0]["message"]["content"])
        body = chat(text, said, user("Go on."), session_id="mover")
        receipt = http.post(CHAT, json=body).raise_for_status().json()["kv_receipt"]
        assert receipt["turn"] == 2
        assert receipt["reused_tokens"]["ssd"] == reused(receipt) >= 256

        stats = json.loads(store(theirs.home, "stats", "--json"))
        assert [one["sessions"] for one in stats["fingerprints"]] == [1]
        assert " 0 corrupt" in store(theirs.home, "verify")
        assert theirs.stop() == 0
    assert "given back" in store(theirs.home, "compact")
    assert " 0 corrupt" in store(theirs.home, "verify")
