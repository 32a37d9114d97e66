"""``python -m engine.plain_server``: vLLM's own server, to compare with. Where Valet has linear
layers computed otherwise than vLLM would, so has it: what is compared is the rest.

Started by the module that vLLM's command runs: in CPU builds the command itself fails, as it asks
for the version of a package of another name.
"""

import runpy
import sys
from pathlib import Path

import torch

from engine import wide_linear


def main() -> None:
    """Serve. Takes the arguments of vLLM's server, ``--model=FOLDER`` among them."""
    model = next(each for each in sys.argv if each.startswith("--model="))
    if wide_linear.serves(Path(model.partition("=")[2]), torch.cpu.get_capabilities()):
        sys.argv += wide_linear.FLAGS
    runpy.run_module("vllm.entrypoints.launchers.api_server.entry", run_name="__main__")


if __name__ == "__main__":
    main()
