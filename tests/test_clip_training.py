"""Cached features, heads on them, and low-rank adaptation, with a tower of three small blocks."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from aigidetect.layers.low_rank import LowRankLinear, merge_low_rank
from aigidetect.models.clip_vit import CLIP_MEAN, CLIP_STD, summary
from aigidetect.preprocess import Tiles, normalise
from aigidetect.training.adapt import Adaptation, AdaptConfig, adapt
from aigidetect.training.augment import Augment
from aigidetect.training.datasets import Sample
from aigidetect.training.features import condition_views, extract, open_cache, random_views, stored_conditions
from aigidetect.training.heads import (
    HeadConfig,
    fit_head,
    flat,
    kept_apart,
    out_of_fold,
    pooled,
    sample_weights,
    source_folds,
)

from .clip_case import tiny


def pictures(count, label=None, lines=2):
    rng = np.random.default_rng(0)
    samples, pixels = [], []
    for i in range(count):
        kind = i % 2 if label is None else label
        source = f"{'ai' if kind else 'real'}-{i // 2 % lines}"
        samples.append(Sample(f"{i}.png", kind, source, f"g{i}", "train", source if kind else "real"))
        noise = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        # Generated pictures are darker: something a head can learn.
        pixels.append((noise * (0.3 if kind else 1.0)).astype(np.uint8))
    return samples, pixels


def fill(folder, count=12, views=3, facts=None, tokens_after=1, **options):
    network = tiny(taps=(2, 3))
    network.tower.taps = (1, 2, 3)
    samples, pixels = pictures(count)
    view = random_views(Augment(), pixels, 12, seed=0)
    cache = extract(
        network.tower,
        view,
        (views, count),
        folder,
        facts=facts or {},
        tokens_after=tokens_after,
        bf16=False,
        batch=5,
        **options,
    )
    return network, samples, pixels, cache


def test_a_cache_holds_what_the_tower_computes(tmp_path):
    network, _, pixels, cache = fill(tmp_path)
    assert (cache.blocks, cache.tokens_after, cache.complete) == ((2, 3), 1, 3)
    view = random_views(Augment(), pixels, 12, seed=0)(2, 7)
    x = normalise(torch.from_numpy(view).permute(2, 0, 1)[None], CLIP_MEAN, CLIP_STD)
    with torch.inference_mode():
        tokens = network.tower(x)
    np.testing.assert_allclose(cache.tokens[2, 7], tokens[0][0].numpy(), atol=5e-3)
    np.testing.assert_allclose(cache.features[2, 7, cache.columns((3,))], summary(tokens[2])[0].numpy(), atol=5e-3)
    assert cache.features[2, 7, cache.columns((2, 3))].shape == (2 * 3 * 24,)
    with pytest.raises(ValueError, match="not the run"):
        cache.columns((1, 2))
    own = cache.features[2, 7, cache.columns((2, 3), patches=False)]
    np.testing.assert_allclose(own, torch.cat([summary(t, patches=False)[0] for t in tokens[1:]]).numpy(), atol=5e-3)


def test_an_interrupted_cache_is_continued_to_the_same_content(tmp_path):
    whole = fill(tmp_path / "whole")[3]
    network, pixels = tiny(taps=(2, 3)), pictures(12)[1]
    network.tower.taps = (1, 2, 3)
    make, calls = random_views(Augment(), pixels, 12, seed=0), []

    def breaking(view, picture):
        calls.append(picture)
        if len(calls) > 22:
            raise KeyboardInterrupt
        return make(view, picture)

    with pytest.raises(KeyboardInterrupt):
        extract(network.tower, breaking, (3, 12), tmp_path / "cut", facts={}, tokens_after=1, bf16=False, batch=1)
    assert 0 < open_cache(tmp_path / "cut").done < 36
    rest = extract(network.tower, make, (3, 12), tmp_path / "cut", facts={}, tokens_after=1, bf16=False, batch=5)
    np.testing.assert_allclose(rest.features, whole.features, atol=2e-3)
    with pytest.raises(ValueError, match="other views"):
        extract(network.tower, make, (3, 12), tmp_path / "cut", facts={"seed": 1}, tokens_after=1)


def test_views_under_conditions_are_the_tiles_of_the_detector(tmp_path):
    samples, pixels = pictures(4)
    view = condition_views(pixels, [s.label for s in samples], ("as-is", "half+q80"), Tiles(12, 1))
    np.testing.assert_array_equal(view(0, 1), pixels[1][4:16, 6:18])
    assert view(1, 1).shape == (12, 12, 3)
    cache = extract(tiny().tower, view, (2, 4), tmp_path, facts={"conditions": ["as-is", "half+q80"]})
    assert stored_conditions(cache) == ["as-is", "half+q80"] and cache.tokens is None
    with pytest.raises(ValueError, match="no tokens"):
        cache.complete_tokens(1)


def test_weights_make_classes_and_sources_even():
    samples = [Sample("a", 0, "r", "g", "train")] * 9 + [Sample("b", 1, "x", "g", "train")] * 2
    samples += [Sample("c", 1, "y", "g", "train")]
    weights = sample_weights(samples, balance=0.0)
    assert weights[:9].sum() == pytest.approx(6) and weights[9:11].sum() == pytest.approx(3) == pytest.approx(weights[11])


@pytest.mark.parametrize(
    "config",
    [HeadConfig(weight_decay=0.01), HeadConfig(hidden=8, weight_decay=0.01, epochs=60, learning_rate=1e-2, dropout=0.1)],
)
def test_a_head_learns_a_difference_and_is_reproducible(config):
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(600, 12, generator=rng) * torch.arange(1.0, 13) + 5
    labels = (features[:, 3] > 5).float()
    head = fit_head(features, labels, torch.ones(600), config)
    accuracy = ((head(features)[:, 0] > 0) == labels.bool()).float().mean()
    assert accuracy > 0.93
    torch.testing.assert_close(head(features), fit_head(features, labels, torch.ones(600), config)(features))


def test_soft_labels_and_weights_move_the_logits():
    features, labels = torch.randn(200, 3), torch.full((200,), 0.8)
    head = fit_head(features, labels, torch.ones(200), HeadConfig(weight_decay=10.0))
    assert torch.sigmoid(head(features)).mean() == pytest.approx(0.8, abs=0.01)
    weights = torch.cat([torch.full((100,), 3.0), torch.ones(100)])
    labels = torch.cat([torch.ones(100), torch.zeros(100)])
    head = fit_head(features, labels, weights, HeadConfig(weight_decay=100.0))
    assert torch.sigmoid(head(features)).mean() == pytest.approx(0.75, abs=0.02)


def test_out_of_fold_logits_never_come_from_a_head_that_saw_the_line(tmp_path):
    samples, _ = pictures(24, lines=6)
    folds = source_folds(samples, 3)
    for source in {s.source for s in samples}:
        assert len({folds[i] for i, s in enumerate(samples) if s.source == source}) == 1
    # One feature a source, set only there: what a head has not seen of it, it cannot use.
    sources = sorted({s.source for s in samples})
    features = np.zeros((2, 24, len(sources)), np.float16)
    for i, s in enumerate(samples):
        features[:, i, sources.index(s.source)] = 1
    logits = out_of_fold(features, samples, HeadConfig(), folds=3)
    own = fit_head(flat(features), torch.tensor([float(s.label) for s in samples]).repeat(2), torch.ones(48), HeadConfig())
    with torch.inference_mode():
        seen = own(flat(features[:1]))[:, 0].numpy()
    labels = np.array([s.label for s in samples])
    assert (seen[labels == 1] > seen[labels == 0].max()).all()
    assert np.ptp(logits) < np.ptp(seen) / 10


def test_pooled_features_keep_rows_and_pictures_together(tmp_path):
    _, samples, _, cache = fill(tmp_path)
    features, labels, shown = pooled([cache, cache], [samples, samples], HeadConfig(blocks=(3,)), views=2)
    assert features.shape == (48, 72) and len(shown) == 48
    assert labels.tolist() == [float(s.label) for s in shown]
    np.testing.assert_array_equal(features[12 + 5].numpy(), cache.features[1, 5, cache.columns((3,))].astype(np.float32))
    with pytest.raises(ValueError, match="12 pictures, the data 11"):
        pooled([cache], [samples[:-1]], HeadConfig(blocks=(3,)))


def test_a_low_rank_update_starts_at_nothing_and_merges_into_the_matrix():
    torch.manual_seed(0)
    plain = nn.Linear(6, 4)
    layer, x = LowRankLinear(plain, 2), torch.randn(3, 6)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=0)
    layer.up.data.normal_()
    state = {"fc.weight": plain.weight, "fc.bias": plain.bias, **layer.factors("fc")}
    merged = merge_low_rank(state)
    assert merged.keys() == {"fc.weight", "fc.bias"}
    torch.testing.assert_close(nn.functional.linear(x, merged["fc.weight"], merged["fc.bias"]), layer(x))
    with pytest.raises(ValueError, match="both factors"):
        merge_low_rank({key: value for key, value in state.items() if key != "fc.low_rank_up"})
    with pytest.raises(ValueError, match="does not fit"):
        merge_low_rank({**state, "fc.low_rank_up": torch.zeros(5, 2)})
    with pytest.raises(ValueError, match="floating point"):
        merge_low_rank({**state, "fc.weight": torch.zeros(4, 6, dtype=torch.int8)})


CONFIG = AdaptConfig(after=1, rank=2, steps=6, batch_size=8, learning_rate=0.02, head_learning_rate=0.01)


def adaptation(cache, samples, config=CONFIG):
    return Adaptation(tiny(taps=(2, 3)), [cache.complete_tokens(1)], [samples], config)


def test_before_the_first_step_the_logits_are_those_of_the_network(tmp_path):
    _, samples, _, cache = fill(tmp_path)
    run = adaptation(cache, samples)
    with torch.inference_mode():
        expected = tiny(taps=(2, 3)).head(flat(cache.features[:1]))
        logits = run.logits(torch.from_numpy(np.array(cache.tokens[0])))
    torch.testing.assert_close(logits, expected, atol=0.05, rtol=0.05)  # the run computes in bfloat16


def test_a_batch_shows_two_views_of_each_picture_and_both_classes_alike(tmp_path):
    _, samples, _, cache = fill(tmp_path)
    tokens, labels = adaptation(cache, samples).batch(3)
    assert labels[:, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    found = [
        {(v, i) for v in range(3) for i in range(12) if np.array_equal(cache.tokens[v, i], token.numpy())}
        for token in tokens
    ]
    for first, second in zip(found[:4], found[4:]):
        assert {i for _, i in first} == {i for _, i in second} and not first & second


def test_adaptation_lowers_the_loss_and_its_result_is_what_a_file_needs(tmp_path):
    _, samples, _, cache = fill(tmp_path / "cache")
    run = adaptation(cache, samples, dataclasses.replace(CONFIG, steps=40))
    losses = [run.update() for _ in range(40)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    fresh = tiny(taps=(2, 3))
    merged = merge_low_rank({**fresh.state_dict(), **run.result()})
    assert merged.keys() == fresh.state_dict().keys()
    changed = [key for key in merged if not torch.equal(merged[key], fresh.state_dict()[key])]
    assert all(key.startswith(("tower.blocks.1.", "tower.blocks.2.", "head.fc.")) for key in changed) and len(changed) == 10


def test_an_adaptation_continues_bit_exactly(tmp_path):
    _, samples, _, cache = fill(tmp_path / "cache")
    whole = adaptation(cache, samples)
    adapt(whole, tmp_path / "whole")
    adapt(adaptation(cache, samples), tmp_path / "cut", max_steps=2)
    rest = adaptation(cache, samples)
    adapt(rest, tmp_path / "cut")
    for name, value in whole.result().items():
        assert torch.equal(value, rest.result()[name]), name
    with pytest.raises(ValueError, match="another configuration"):
        adapt(adaptation(cache, samples, dataclasses.replace(CONFIG, seed=1)), tmp_path / "cut")


def test_a_thinned_step_keeps_the_class_token_and_other_patches_each_time(tmp_path):
    _, samples, _, cache = fill(tmp_path)
    run = adaptation(cache, samples, dataclasses.replace(CONFIG, keep=0.5))
    tokens, _ = run.batch(0)
    thin = run.thinned(tokens, 0)
    assert thin.shape[1] == 1 + round((tokens.shape[1] - 1) / 2)
    assert torch.equal(thin[:, 0], tokens[:, 0]) and torch.equal(thin, run.thinned(tokens, 0))
    assert not torch.equal(thin, run.thinned(tokens, 1))
    for view, whole in zip(thin, tokens):
        assert all((whole == token).all(dim=1).any() for token in view)


@pytest.mark.parametrize("wrong", [{"keep": 0.0}, {"keep": 1.5}, {"dropout": 1.0}])
def test_shares_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match="keep in"):
        AdaptConfig(**wrong)


def test_pictures_held_out_are_whole_lines_and_no_step_sees_them(tmp_path):
    _, samples, _, cache = fill(tmp_path)
    fakes = [dataclasses.replace(sample, label=1, line="aligned-x") for sample in samples if sample.label == 0]
    masks = kept_apart([samples, fakes], 3)
    assert 0 < masks[0].sum() < len(samples) and not kept_apart([samples], 0)[0].any()
    keys = [(s.label, s.line if s.label else s.source) for s in samples]
    assert all(len({bool(m) for k, m in zip(keys, masks[0]) if k == key}) == 1 for key in keys)
    groups = {s.group for s, out in zip(samples, masks[0]) if out}
    assert [fake.group in groups for fake in fakes] == masks[1].tolist()
    run = Adaptation(tiny(taps=(2, 3)), [cache.complete_tokens(1)], [samples], CONFIG, masks[:1])
    held = cache.tokens[:, masks[0]].reshape(-1, *cache.tokens.shape[2:])
    for step in range(20):
        assert not any((held == token.numpy()).all(axis=(1, 2)).any() for token in run.batch(step)[0])


def test_scores_are_the_logits_of_the_averaged_weights(tmp_path):
    _, samples, _, cache = fill(tmp_path)
    run = adaptation(cache, samples)
    chosen = np.array([0, 5, 7])
    before = run.scores(chosen, averaged=False)
    for _ in range(3):
        run.update()
    current = [p.detach().clone() for p in run.trained]
    after = run.scores(chosen)
    assert before.shape == after.shape == (2, 3) and not np.allclose(before, after)
    assert all(torch.equal(a, b) for a, b in zip(current, run.trained))
    fresh = tiny(taps=(2, 3))
    fresh.load_state_dict(merge_low_rank({**fresh.state_dict(), **run.result()}))
    other = Adaptation(fresh, run.tokens, [samples], CONFIG).scores(chosen, averaged=False)
    np.testing.assert_allclose(after, other, atol=0.05)
