"""Frequency filter, SPAI and its pre-training: what holds for any weights."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from aigidetect import Calibration, Detector, Whole
from aigidetect.layers.spectral import FrequencySplit, centred_disc, doubled_disc, half_plane, spectral_filter, symmetric
from aigidetect.models import load_architecture
from aigidetect.models.spai import SPAI, build
from aigidetect.training.backbone import give_backbone
from aigidetect.training.mfm import MaskedFrequencyModel, corrupt, draw_masks, mfm_loss
from aigidetect.training.recipe import RECIPES
from aigidetect.training.run import Run

SMALL = {"width": 16, "blocks": 2, "heads": 2, "projection": 8, "query_heads": 2, "query_width": 8}


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SPAI(**SMALL).eval()


@pytest.fixture
def seen(network):
    """Numbers of pictures that went through the backbone together, in order."""
    counts = []
    network.backbone.patch.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    return counts


@pytest.mark.parametrize("mask", [centred_disc, doubled_disc])
def test_low_and_high_frequencies_sum_to_the_picture(mask):
    x = noise(2, 3, 32, 32)
    low, high = FrequencySplit(mask(32, 5))(x)
    torch.testing.assert_close(low + high, x)
    assert low.std() < high.std()


@pytest.mark.parametrize("mask", [centred_disc, doubled_disc])
def test_the_filter_is_the_real_part_of_the_masked_spectrums_inverse(mask):
    x, disc = noise(2, 3, 32, 32).double(), mask(32, 5).double()
    spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1)) * disc
    expected = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1)))
    torch.testing.assert_close(spectral_filter(x, half_plane(disc)), expected.real)
    is_real = mask is centred_disc
    assert (float(expected.imag.abs().max()) < 1e-12) is is_real


def test_the_doubled_disc_counts_half_at_its_edge():
    weights = symmetric(doubled_disc(224, 16))
    assert [int((weights == weight).sum()) for weight in (1, 0.5)] == [809, 94]
    disc = centred_disc(224, 16)
    assert torch.equal(symmetric(disc), disc)


@pytest.mark.parametrize("mask", [centred_disc, doubled_disc])
def test_masks_have_an_even_size(mask):
    with pytest.raises(ValueError, match="225"):
        mask(225, 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_filter_keeps_the_type(dtype):
    assert spectral_filter(noise(1, 3, 16, 16).to(dtype), half_plane(centred_disc(16, 3))).dtype == dtype


@settings(max_examples=60, deadline=None)
@given(h=st.integers(224, 1500), w=st.integers(224, 1500))
def test_patches_are_a_grid_or_five_crops_and_inside_the_picture(h, w):
    boxes = SPAI.boxes(_Minimum(), h, w)
    assert all(0 <= top <= h - 224 and 0 <= left <= w - 224 for top, left in boxes)
    grid = (h // 224) * (w // 224)
    assert len(boxes) == (grid if grid >= 4 else 5)
    assert (len(set(boxes)) == len(boxes)) or grid < 4


class _Minimum:
    minimum_patches = 4


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        ((448, 449), [(0, 0), (0, 224), (224, 0), (224, 224)]),
        ((512, 389), [(0, 0), (0, 165), (288, 0), (288, 165), (144, 82)]),
        ((224, 224), [(0, 0)] * 5),
        ((224, 900), [(0, 0), (0, 224), (0, 448), (0, 672)]),
    ],
)
def test_few_patches_become_five_crops(network, size, boxes):
    assert network.boxes(*size) == boxes


def test_without_a_minimum_the_grid_is_always_taken():
    assert SPAI(**SMALL, minimum_patches=1).boxes(224, 500) == [(0, 0), (0, 224)]


@pytest.mark.parametrize("size", [(223, 400), (400, 223)])
def test_a_small_picture_is_refused_with_what_would_work(network, size):
    with pytest.raises(ValueError, match=r"Whole\(min_size=224\)"):
        network(noise(1, 3, *size))


@torch.inference_mode()
def test_the_number_of_patches_at_a_time_bounds_the_batch_and_changes_no_logit(network, seen):
    x = noise(2, 3, 448, 680)
    together = network(x)
    assert seen == [3 * 12]
    seen.clear()
    network.feature_batch = 5
    torch.testing.assert_close(network(x), together, atol=1e-6, rtol=0)
    assert seen == [3 * 5, 3 * 5, 3 * 2]


@torch.inference_mode()
def test_crops_that_coincide_are_computed_once(network, seen):
    x = noise(1, 3, 224, 224)
    logit = network(x)
    assert seen == [3]
    vectors = network.describe(x).expand(5, -1)[None]
    torch.testing.assert_close(network.head(network.attend(vectors)[0]), logit, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_a_logit_does_not_depend_on_its_neighbours(network):
    x = noise(3, 3, 300, 300)
    torch.testing.assert_close(network(x), torch.cat([network(one[None]) for one in x]), atol=1e-6, rtol=0)


@torch.inference_mode()
def test_the_logit_depends_on_every_patch_but_not_on_the_grids_remainder(network):
    x = noise(1, 3, 448, 500)
    logit = network(x)
    for top, left in network.boxes(448, 500):
        changed = x.clone()
        changed[..., top : top + 224, left : left + 224] = 0.5
        assert not torch.equal(network(changed), logit)
    x[..., 448:] = 0
    assert torch.equal(network(x), logit)


@pytest.mark.parametrize("train_backbone", [False, True])
def test_gradient_reaches_every_trainable_parameter(train_backbone):
    torch.manual_seed(0)
    network = SPAI(**SMALL, train_backbone=train_backbone, dropout=0.2).train()
    network(noise(2, 3, 448, 448)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad is (train_backbone or not name.startswith("backbone."))
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


def test_attention_says_for_every_patch_how_much_it_counts(network):
    with torch.no_grad():
        network.attention.query.mul_(1000)
    x = noise(2, 3, 448, 680)
    x[0, :, 224:, :224] = 0.5
    shares = network.attention_map(x)
    assert shares.shape == (2, len(network.boxes(448, 680)))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
    others = shares[0, [0, 1, 2, 4, 5]]
    assert (shares[0, 3] - others).abs().min() > (others.max() - others.min())


def test_a_logit_under_autocast_has_full_precision(network):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logit = network(noise(1, 3, 224, 224))
    assert logit.dtype == torch.float32 and logit.isfinite().all()


@pytest.mark.parametrize("options", [{"feature_batch": 0}, {"minimum_patches": 0}])
def test_impossible_numbers_of_patches_are_refused(options):
    with torch.device("meta"), pytest.raises(ValueError, match="at least 1"):
        build(**options)


@pytest.mark.parametrize("size", [(1, 1), (100, 300), (224, 224), (500, 460)])
def test_a_detector_scores_pictures_of_any_size(network, size):
    detector = Detector(network, Whole(), Calibration(), device="cpu")
    pixels = (noise(3, *size) * 255).byte()
    prediction = detector.predict(pixels)
    with torch.inference_mode():
        expected = network(Whole()(pixels))
    assert prediction.view_logits == pytest.approx(expected.flatten().tolist(), abs=1e-6)


def test_masks_keep_low_or_high_frequencies_by_a_fair_coin():
    masks = draw_masks(200, 32, 5, generator=torch.Generator().manual_seed(0))
    low = centred_disc(32, 5)
    keeps_low = [torch.equal(mask, low) for mask in masks]
    assert all(is_low or torch.equal(mask, 1 - low) for is_low, mask in zip(keeps_low, masks))
    assert 70 < sum(keeps_low) < 130
    assert torch.equal(masks, draw_masks(200, 32, 5, generator=torch.Generator().manual_seed(0)))


def test_what_was_removed_is_gone_and_the_rest_is_there():
    x = 0.4 + 0.2 * noise(2, 3, 32, 32)
    low = centred_disc(32, 5)
    kept = corrupt(x, torch.stack((low, low)))  # low frequencies alone stay within [0, 1], so nothing is clamped
    spectra = [torch.fft.fftshift(torch.fft.fft2(p), dim=(-2, -1)) for p in (x, kept)]
    torch.testing.assert_close(spectra[1], spectra[0] * low, atol=1e-3, rtol=0)


def test_the_masked_loss_counts_removed_frequencies_only():
    x, masks = noise(2, 3, 32, 32), torch.stack((centred_disc(32, 5), 1 - centred_disc(32, 5)))
    kept = spectral_filter(noise(2, 3, 32, 32, seed=1), torch.stack([half_plane(mask) for mask in masks])[:, None])
    removed = spectral_filter(noise(2, 3, 32, 32, seed=1), torch.stack([half_plane(1 - mask) for mask in masks])[:, None])
    assert float(mfm_loss(x + kept, x, masks)) < 1e-4
    assert float(mfm_loss(x + removed, x, masks)) > 0.1
    assert float(mfm_loss(x + kept, x, masks, reduction="normal")) > 0.05


def test_the_gradient_of_a_perfect_restoration_is_finite():
    x = noise(1, 3, 32, 32).requires_grad_()
    mfm_loss(x, x.detach(), draw_masks(1, 32, 5)).backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="masked"):
        mfm_loss(noise(1, 3, 32, 32), noise(1, 3, 32, 32), draw_masks(1, 32, 5), reduction="sum")


def test_pre_training_learns():
    torch.manual_seed(0)
    model = MaskedFrequencyModel(width=16, blocks=2, heads=2, patch=8, image_size=32)
    x, masks = 0.5 * noise(4, 3, 1, 1) + 0.1 * noise(4, 3, 32, 32), draw_masks(4, 32, 5)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        loss = mfm_loss(model(corrupt(x, masks)), x, masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_encoder_of_the_pre_training_is_spais_backbone(network):
    encoder = MaskedFrequencyModel(width=16, blocks=2, heads=2).encoder
    network.backbone.load_state_dict(encoder.state_dict())


def test_a_run_begins_with_the_pre_trained_backbone(network, tmp_path):
    encoder = MaskedFrequencyModel(width=16, blocks=2, heads=2).encoder.state_dict()
    save_file({f"backbone.{key}": value for key, value in encoder.items()}, tmp_path / "mfm.safetensors")
    run = SimpleNamespace(network=network, step=0, processes=SimpleNamespace(main=True), recipe=RECIPES["spai"])
    run.take_backbone = lambda state: Run.take_backbone(run, state)
    give_backbone(run, tmp_path / "mfm.safetensors", tmp_path)
    assert all(torch.equal(value, encoder[key]) for key, value in network.backbone.state_dict().items())
    assert (tmp_path / "backbone.json").exists()


def test_the_recipe_gives_the_network_what_the_detector_does():
    recipe, whole = RECIPES["spai"], Whole()
    assert (recipe.mean, recipe.std) == (whole.mean, whole.std)
    with torch.device("meta"):
        network = load_architecture(recipe.architecture).build(**recipe.config)
    assert len(set(network.boxes(*[recipe.size_at(0)] * 2))) == 4
