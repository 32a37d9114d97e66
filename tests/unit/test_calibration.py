"""An engine's model from its answers: of made-up answers, what they were made of."""

import random

import pytest

from load.calibration import TAIL, Timed, engine_model, rates
from load.simulate import EngineModel

ENGINE = EngineModel(
    prefill_s=2e-3,
    prefill_s_per_position=1e-6,
    decode_s=0.05,
    decode_s_per_request=0.0,
    fixed_s=0.03,
    read_s=0.0,
)
FROM_SSD, TO_DEVICE = 1e9, 5e9
LEAD_S = ENGINE.fixed_s
LENGTHS = (256 + TAIL, 512 + TAIL, 1024 + TAIL)


def _timed(length: int, noise: float = 1.0, load_s: float = 0.0) -> Timed:
    size = (length - TAIL) * 23_040
    here = ENGINE.lead(length) + ENGINE.decode_s
    device = here + ENGINE.prefill(length - TAIL, length)
    dram = load_s + size / TO_DEVICE
    ssd = 2 * load_s + size / FROM_SSD
    return Timed(
        tokens=length,
        new=noise * (here + ENGINE.prefill(0, length)),
        device=noise * device,
        dram=noise * dram,
        ssd=noise * ssd,
        token_s=noise * ENGINE.decode_s,
        kv_bytes=size,
    )


def test_exact_answers_give_the_model_back() -> None:
    made = engine_model([_timed(length) for length in LENGTHS], LEAD_S, LEAD_S)
    assert made.prefill(0, 1000) == pytest.approx(ENGINE.prefill(0, 1000))
    assert made.prefill_s_per_position == pytest.approx(ENGINE.prefill_s_per_position)
    assert made.decode_s == pytest.approx(ENGINE.decode_s)
    assert made.lead(2000) == pytest.approx(ENGINE.lead(2000))


def test_what_the_server_does_not_see_is_outside_of_it() -> None:
    timed = [_timed(length) for length in LENGTHS]
    seen_s = 0.6 * LEAD_S
    made = engine_model(timed, LEAD_S, seen_s)
    assert made.lead(900) == pytest.approx(seen_s)
    assert made.lead(900) + made.outside_s == pytest.approx(LEAD_S)


@pytest.mark.parametrize("load_s", [0.0, 0.02])
def test_exact_loads_give_the_rates_back(load_s: float) -> None:
    ssd, device = rates([_timed(length, load_s=load_s) for length in LENGTHS])
    assert (ssd.bytes_s, device.bytes_s) == pytest.approx((FROM_SSD, TO_DEVICE))
    assert (ssd.fixed_s, device.fixed_s) == pytest.approx((2 * load_s, load_s), abs=1e-9)


def test_one_that_was_disturbed_changes_little() -> None:
    timed = [_timed(length) for length in LENGTHS for _ in range(3)]
    timed[4] = _timed(LENGTHS[1], noise=3.0)
    assert engine_model(timed, LEAD_S, LEAD_S).prefill(0, 1000) == pytest.approx(
        ENGINE.prefill(0, 1000)
    )


def test_no_answer_makes_anything_negative() -> None:
    for seed in range(50):
        dice = random.Random(seed)
        timed = [_timed(length, noise=dice.uniform(0.3, 3.0)) for length in LENGTHS]
        made = engine_model(timed, dice.uniform(0.0, 2.0) * LEAD_S, LEAD_S)
        parts = (made.prefill_s, made.prefill_s_per_position, made.fixed_s, made.read_s)
        assert made.outside_s >= 0
        assert min(parts) >= 0
        assert min(rate.bytes_s for rate in rates(timed)) > 0
        assert min(rate.fixed_s for rate in rates(timed)) >= 0
