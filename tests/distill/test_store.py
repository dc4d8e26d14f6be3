# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from plane_scene import look_at

from harmonizer_ns.distill import store as store_module
from harmonizer_ns.distill.store import PseudoViewSampler, PseudoViewStore, encode
from harmonizer_ns.distill.view_files import view_path
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import load_image, save_image, to_float
from harmonizer_ns.types import PseudoView


def repaired(step=0, target=0, trust=1.0, width=12, height=8, seed=0):
    generator = torch.Generator().manual_seed(seed + 1000 * step + target)
    camera = look_at((0.1 * target, 0, 0), (0, 0, 4), width=width, height=height)
    rgb, render = torch.rand(2, 3, height, width, generator=generator)
    return PseudoView(rgb, render, torch.full((1, height, width), trust), camera, step, target)


def view(*arguments, **options):
    return encode(repaired(*arguments, **options))


def kept(store):
    return [(v.step, v.target) for v in store]


def saved_and_loaded(state, tmp_path):
    torch.save(state, tmp_path / "state.pt")
    return torch.load(tmp_path / "state.pt", weights_only=True)


def test_views_come_back_to_8_bits():
    store = PseudoViewStore(400)
    original = repaired(step=7, target=3, trust=0.4)
    store.add([encode(original)])
    (back,) = store
    assert (back.rgb - original.rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert (back.render - original.render).abs().max() <= 0.5 / 255 + 1e-6
    assert (back.weight - 0.4).abs().max() <= 0.5 / 255 + 1e-6
    assert (back.step, back.target) == (7, 3)
    assert torch.equal(back.camera.camera_to_world, original.camera.camera_to_world)
    assert store.stored[0].confidence == pytest.approx(0.4, abs=1e-6)


def test_all_rounds_coexist_until_full():
    store = PseudoViewStore(capacity=4)
    for step in (0, 100):
        store.add([view(step, 0), view(step, 1)])
    assert kept(store) == [(0, 0), (0, 1), (100, 0), (100, 1)]


def test_the_oldest_goes_first_at_equal_trust():
    store = PseudoViewStore(capacity=4)
    for step in (0, 100, 200):
        store.add([view(step, 0), view(step, 1)])
    assert kept(store) == [(100, 0), (100, 1), (200, 0), (200, 1)]


def test_the_least_trusted_goes_first_at_equal_age():
    store = PseudoViewStore(capacity=3)
    store.add([view(0, 0, 0.9), view(0, 1, 0.2), view(0, 1, 0.8), view(0, 0, 0.9)])
    assert [round(v.confidence, 1) for v in store.stored] == [0.9, 0.8, 0.9]


def test_trust_may_outlive_age():
    store = PseudoViewStore(capacity=3)
    store.add([view(0, 0, 1.0)])
    store.add([view(100, 0, 0.3)])  # worth less than the first
    store.add([view(200, 0, 0.5), view(200, 1, 0.5)])
    assert kept(store) == [(0, 0), (200, 0), (200, 1)]


def test_the_newest_of_every_target_stays():
    store = PseudoViewStore(capacity=3)
    store.add([view(0, 0, 0.05)])
    for step in range(100, 600, 100):
        store.add([view(step, 1)])
    assert kept(store) == [(0, 0), (400, 1), (500, 1)]


def test_never_more_than_the_capacity():
    store = PseudoViewStore(capacity=5)
    for step in range(4):
        store.add([view(step, target) for target in range(9)])
        assert len(store) == 5


def test_round_trip_is_exact(tmp_path):
    store, other = PseudoViewStore(400), PseudoViewStore(400)
    store.add([view(0, 0, 0.3), view(0, 1, 0.7, width=20, height=6)])
    store.add([view(50, 0)])
    store.write(tmp_path / "views")
    other.load_state_dict(saved_and_loaded(store.state_dict(), tmp_path), tmp_path / "views")
    assert len(other) == 3
    for a, b in zip(store.stored, other.stored, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.camera.camera_to_world, b.camera.camera_to_world)
        assert torch.equal(a.camera.intrinsics, b.camera.intrinsics)
        assert (a.step, a.target, a.confidence) == (b.step, b.target, b.confidence)
        assert (a.camera.width, a.camera.height) == (b.camera.width, b.camera.height)
    for s in (store, other):
        s.add([view(100, 2)])
    assert torch.equal(store.values(), other.values())


def test_state_is_small_and_not_disturbed_by_later_rounds():
    store = PseudoViewStore(capacity=2)
    store.add([view(0, 0), view(0, 1)])
    state = store.state_dict()
    assert not any(value.dtype == torch.uint8 for v in state["views"] for value in v.values() if torch.is_tensor(value))
    store.add([view(100, 0), view(100, 1)])
    assert [v["step"] for v in state["views"]] == [0, 0]


def written(tmp_path):
    """A store of two views whose files lie in the folder."""
    store = PseudoViewStore(400)
    store.add([view(0, 0, 0.3), view(0, 1)])
    store.write(tmp_path)
    return store


def test_a_view_is_written_once_and_shows_its_repair(tmp_path, monkeypatch):
    store = written(tmp_path)
    store.add([view(100, 0)])
    paths = [view_path(tmp_path, one.digest) for one in store.stored]
    paths[0].unlink()
    calls, write = [], store_module.write_view
    monkeypatch.setattr(store_module, "write_view", lambda path, pixels: calls.append(path) or write(path, pixels))
    store.write(tmp_path)
    assert calls == [paths[0], paths[2]]  # what somebody deleted, and what is new
    other = PseudoViewStore(400)
    other.load_state_dict(store.state_dict(), tmp_path)
    other.write(tmp_path)
    assert len(calls) == 2
    other.write(tmp_path / "elsewhere")
    assert len(calls) == 5
    shown = load_image(paths[1])
    assert torch.equal(shown, torch.cat([to_float(store.stored[1].rgb), to_float(store.stored[1].render)], dim=1))


def test_views_that_earlier_versions_kept_in_the_checkpoint_are_read(tmp_path):
    store, other = written(tmp_path), PseudoViewStore(400)
    state = store.state_dict()
    for saved, stored in zip(state["views"], store.stored, strict=True):
        del saved["sha256"]
        saved |= {"rgb": stored.rgb, "render": stored.render, "weight": stored.weight}
    other.load_state_dict(saved_and_loaded(state, tmp_path), tmp_path / "none")
    assert [one.digest for one in other.stored] == [one.digest for one in store.stored]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cannot read"),
        (lambda path: path.write_bytes(b"no image"), "cannot read"),
        (lambda path: save_image(path, torch.rand(3, 16, 12)), "is damaged: RGB"),
        (lambda path: path.write_bytes(next(p for p in path.parent.iterdir() if p != path).read_bytes()), "hash"),
    ],
)
def test_a_view_that_is_missing_or_damaged_is_named(tmp_path, damage, told):
    store = written(tmp_path)
    path = view_path(tmp_path, store.stored[1].digest)
    damage(path)
    with pytest.raises(InputError, match=told) as caught:
        PseudoViewStore(400).load_state_dict(store.state_dict(), tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_path_but_a_hash_names_a_view(tmp_path):
    state = written(tmp_path).state_dict()
    state["views"][0]["sha256"] = "../" * 21 + "x"
    with pytest.raises(InputError, match="named by a sha256"):
        PseudoViewStore(400).load_state_dict(state, tmp_path)


# --- sampler


def filled(*views):
    store = PseudoViewStore(400)
    store.add(views)
    return store


def share(store, sampler, draws=4000):
    counts: dict = {}
    for _ in range(draws):
        drawn = sampler.draw(store, 1.0)
        key = None if drawn is None else (drawn.step, drawn.target)
        counts[key] = counts.get(key, 0) + 1 / draws
    return counts


def test_draws_follow_age_and_confidence():
    store = filled(view(0, 0, 0.8), view(100, 0, 0.8), view(200, 0, 0.8), view(200, 1, 0.2))
    counts = share(store, PseudoViewSampler(0.4, 1.0))
    assert counts[None] == pytest.approx(0.6, abs=0.03)
    # 0.8 / 2^(1/2), 0.8 / 2^(1/4), 0.8 and 0.2, of 2.2384 in all
    for key, value in {(0, 0): 0.5657, (100, 0): 0.6727, (200, 0): 0.8, (200, 1): 0.2}.items():
        assert counts[key] == pytest.approx(0.4 * value / 2.2384, abs=0.03)


def test_extreme_probabilities():
    store = filled(view(0, 0))
    assert share(store, PseudoViewSampler(0.0, 1.0), 200) == {None: pytest.approx(1)}
    assert share(store, PseudoViewSampler(1.0, 1.0), 200) == {(0, 0): pytest.approx(1)}


def test_views_without_any_trust_are_never_drawn():
    sampler = PseudoViewSampler(1.0, 1.0)
    assert share(filled(view(0, 0, 0.0)), sampler, 50) == {None: pytest.approx(1)}
    assert set(share(filled(view(0, 0, 0.0), view(0, 1), view(0, 2, 0.0)), sampler, 200)) == {(0, 1)}
    assert sampler.draw(PseudoViewStore(1), 1.0) is None


def test_loss_weight_scales_the_views_weight():
    drawn = PseudoViewSampler(1.0, loss_weight=0.5).draw(filled(view(0, 0, 0.8)), 1.0)
    assert torch.allclose(drawn.weight, torch.tensor(0.4))


def test_trust_scales_the_views_weight_and_nothing_is_drawn_without_it():
    store, sampler = filled(view(0, 0, 0.8)), PseudoViewSampler(1.0, 1.0)
    assert torch.allclose(sampler.draw(store, trust=0.25).weight, torch.tensor(0.2))
    assert sampler.draw(store, trust=0.0) is None


def test_resumed_sampler_draws_the_same(tmp_path):
    store = filled(*(view(0, target) for target in range(6)))
    sampler, resumed = PseudoViewSampler(0.5, 1.0), PseudoViewSampler(0.5, 1.0)
    for _ in range(17):
        sampler.draw(store, 1.0)
    resumed.load_state_dict(saved_and_loaded(sampler.state_dict(), tmp_path))
    torch.manual_seed(0)  # the global generator plays no part

    def draws(s):
        return [None if v is None else v.target for v in (s.draw(store, 1.0) for _ in range(60))]

    expected = draws(sampler)
    torch.rand(7)
    assert draws(resumed) == expected
    assert len(set(expected)) > 3
