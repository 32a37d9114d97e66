"""The default model, answering the same way each time to clients that do not say how to sample."""

import json
from pathlib import Path

from engine.models import prepare_default_model
from tests.valet_process import MODELS

LONGEST_ANSWER = 96


def greedy_model(folder: Path) -> Path:
    """Make ``folder``: the default model's files, with greedy decoding and short answers as what
    a request gets that asks for nothing else."""
    folder.mkdir()
    for file in prepare_default_model(MODELS).iterdir():
        (folder / file.name).symlink_to(file)
    defaults = {"do_sample": False, "temperature": 0.0, "max_new_tokens": LONGEST_ANSWER}
    (folder / "generation_config.json").write_text(json.dumps(defaults))
    return folder
