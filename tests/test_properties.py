"""Properties of the whole: what must hold for any pictures, any order, any batch and any calibration."""

import io

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from aigidetect import Calibration, Detector, Threshold, Tiles
from aigidetect.layers.fusion import SCALES, FixedMultiScaleNPR, MultiScaleNPR
from aigidetect.layers.npr import npr

from .conftest import Toy, array, encoded

few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = [encoded(array(24 + 9 * i, 60 - 7 * i, seed=i), ("png", "jpg", "webp")[i % 3]) for i in range(5)]
BAD = [
    b"",
    b"text",
    GOOD[0][:-60],
    GOOD[1][: len(GOOD[1]) // 2],
    None,
    3.5,
    np.zeros((0, 4, 3), np.uint8),
    "no such file",
    {},
]
kinds = st.one_of(
    st.tuples(st.just(True), st.sampled_from(range(5))), st.tuples(st.just(False), st.sampled_from(range(len(BAD))))
)


@pytest.fixture(scope="module")
def tiny():
    return Detector(Toy(), Tiles(size=16, max_tiles=3), Calibration(temperature=0.05), name="toy@1", device="cpu")


@pytest.fixture(scope="module")
def alone(tiny):
    return [tiny.predict(data) for data in GOOD]


@few
@given(mix=st.lists(kinds, max_size=14), batch_size=st.integers(1, 17), workers=st.integers(1, 5))
def test_a_stream_keeps_length_order_and_scores_whatever_is_in_it(tiny, alone, mix, batch_size, workers):
    """Good ones get the score they get alone, up to 1e-5 in the logit of a view.

    Exact equality is not promised: for another batch size, the convolutions may add up the same products in another order.
    In float32 that moves the logits of this network, which are of order 1, by some 1e-7 for each layer.
    """
    inputs = [GOOD[i] if good else BAD[i] for good, i in mix]
    records = list(tiny.stream(inputs, batch_size=batch_size, workers=workers))
    assert [record.ok for record in records] == [good for good, _ in mix]
    for (good, i), record in zip(mix, records, strict=True):
        if good:
            assert record.view_logits == pytest.approx(alone[i].view_logits, abs=1e-5)
            assert record.image == alone[i].image
        else:
            assert record.message and record.error


@few
@given(h=st.integers(1, 50), w=st.integers(1, 50), seed=st.integers(0, 99))
def test_every_kind_of_input_of_one_picture_gives_exactly_one_score(tiny, tmp_path, h, w, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    data = encoded(pixels, "png")
    path = tmp_path / "x.png"
    path.write_bytes(data)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    inputs = [path, str(path), data, io.BytesIO(data), Image.fromarray(pixels), pixels, pixels / 255, tensor, tensor / 255]
    assert len({(record.view_logits, record.logit, record.probability) for record in map(tiny.predict, inputs)}) == 1


pictures = st.builds(
    lambda h, w, seed: torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, 3, 4 * h, 4 * w))).double(),
    st.integers(1, 6), st.integers(1, 6), st.integers(0, 999),
)  # fmt: skip
scales = st.sampled_from(SCALES)


@few
@given(x=pictures, scale=scales, shift=st.integers(-300, 300), gain=st.integers(-7, 7))
def test_npr_ignores_a_constant_and_is_linear(x, scale, shift, gain):
    # Whole numbers in double precision, so that equality is exact.
    assert torch.equal(npr(x + shift, scale), npr(x, scale))
    assert torch.equal(npr(gain * x, scale), gain * npr(x, scale))
    assert torch.equal(npr(x + x.flip(1), scale), npr(x, scale) + npr(x.flip(1), scale))


@few
@given(x=pictures)
def test_round_trips_at_a_half_and_a_quarter_leave_nothing_to_a_second_one(x):
    for scale in (0.25, 0.5):
        trip = x - npr(x, scale)
        assert not npr(trip, scale).any()
        assert torch.equal(npr(npr(x, scale), scale), npr(x, scale))


def enlarged(x, factor):
    return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


@few
@given(x=pictures)
def test_npr_vanishes_on_what_its_own_round_trip_could_have_made_and_sees_the_rest_enlarged(x):
    assert not any(npr(enlarged(x, 4), scale).any() for scale in SCALES)
    assert not npr(enlarged(x, 2), 0.5).any()
    # Of a block of four pixels, the first is that of a block of two before the enlargement.
    assert torch.equal(npr(enlarged(x, 2), 0.25), enlarged(npr(x, 0.5), 2))


@few
@given(x=pictures, dx=st.sampled_from([0, 4, 8]), dy=st.sampled_from([0, 4, 8]), scale=scales)
def test_npr_moves_with_the_picture_by_whole_periods(x, dx, dy, scale):
    rolled = x.roll((dy, dx), (-2, -1))
    assert torch.equal(npr(rolled, scale), npr(x, scale).roll((dy, dx), (-2, -1)))


@few
@given(x=pictures, shift=st.integers(-300, 300))
def test_fused_npr_ignores_a_constant_too(x, shift):
    for module in (MultiScaleNPR().double(), FixedMultiScaleNPR().double()):
        assert torch.equal(module(x + shift), module(x))


rates = st.sampled_from([0.01, 0.05, 0.1])


@st.composite
def calibrations(draw):
    points = []
    for fpr in draw(st.sets(rates, min_size=1)):
        low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
        points.append(Threshold(fpr, high, low, 10, 10, 0.0, 1.0))
    temperature, bias = draw(st.floats(0.01, 100)), draw(st.floats(-50, 50))
    return Calibration(draw(st.sampled_from(["mean", "max", "median"])), temperature, bias, tuple(points))


logits = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=5)


@few
@given(calibration=calibrations(), views=logits, data=st.data())
def test_a_higher_logit_of_any_view_never_makes_a_picture_look_more_real(calibration, views, data):
    from aigidetect.calibration import sigmoid

    i = data.draw(st.integers(0, len(views) - 1))
    raised = [*views[:i], views[i] + data.draw(st.floats(0, 100)), *views[i + 1 :]]
    low, high = (sigmoid(calibration.logit(values)) for values in (views, raised))
    assert 0 <= low <= high <= 1
    order = ["real", "unsure", "ai"]
    for point in calibration.thresholds:
        assert order.index(calibration.verdict(low, point.fpr)) <= order.index(calibration.verdict(high, point.fpr))
