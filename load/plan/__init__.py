"""``valet plan``: what would this hardware give me?

    question = Question(Hardware(dram_bytes=64 * 2**30, ssd_bytes=2**42), EngineModel(), users=32)
    found = answer(question, read_workload(Path("trace.jsonl.gz")))
    print(advise(found))

The question is simulated (``load.simulate``) with Valet's own policies, and around it less and more
DRAM, fewer and more users.

question   hardware, an engine, users; the sweeps
workload   whose requests: a trace of any format, or generated sessions
kv_size    bytes of KV a token, from a model's config.json
valet      the policies
answer     simulated configurations, and their figures
advice     one sentence
units      figures as an operator reads them
text       the answer for a terminal, and for programs
chart      the same, drawn
errors     CannotPlan
"""

from load.plan.answer import Answer, Place, Point, answer
from load.plan.question import Question
from load.plan.workload import Workload

__all__ = ["Answer", "Place", "Point", "Question", "Workload", "answer"]
