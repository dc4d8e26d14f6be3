# SPDX-License-Identifier: Apache-2.0
"""What is not finite is neither learned nor saved, in either host."""

import math

import pytest
import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from runs import start, tiny_config
from splat_runs import CPU, tiny

from gsplat_trainer import checkpoint, objective
from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.errors import InputError
from harmonizer_ns.finite import SkippedSteps, all_finite, check_finite
from harmonizer_ns.plugin.optimizers import FiniteOptimizers
from harmonizer_ns.plugin.trainer import newest_checkpoint, read_checkpoint

ROWS = torch.ones(5, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_among_many_is_found(bad):
    spoiled = ROWS.clone()
    spoiled[3, 1] = bad
    assert all_finite([ROWS, torch.zeros(0, 2), torch.tensor(3.0)])
    assert not all_finite([ROWS, spoiled])
    assert not all_finite([spoiled, -spoiled])  # infinities of both signs
    assert not all_finite([ROWS, spoiled.to_sparse()])
    assert not all_finite([spoiled.half()])


def test_large_numbers_whose_sum_overflows_are_finite():
    assert all_finite(
        [torch.full((9,), 3e38), torch.full((2000,), 6e4).half(), torch.full((9,), -1e300, dtype=torch.float64)]
    )
    assert all_finite([])


def test_what_is_not_finite_is_named_and_what_has_a_meaning_is_saved():
    splats = {"scales": ROWS.clone(), "opacities": torch.zeros(5), "means": ROWS.clone(), "order": [1, 2], "step": 3}
    splats["scales"][0] = -math.inf  # a size of 0
    splats["opacities"][:2] = torch.tensor([math.inf, -math.inf])
    check_finite({"splats": splats}, "x", "go on")
    for name, value in (("scales", math.inf), ("scales", math.nan), ("opacities", math.nan), ("means", -math.inf)):
        wrong = {**splats, name: splats[name].clone()}
        wrong[name][4] = value
        with pytest.raises(InputError, match=rf"^x is not saved, splats\.{name} holds .*not finite: go on$"):
            check_finite({"splats": wrong}, "x", "go on")
    with pytest.raises(InputError, match=r"optimizers\.1\.exp_avg"):
        check_finite({"optimizers": [{}, {"exp_avg": ROWS * math.nan}]}, "x", "")


def test_only_steps_in_a_row_end_a_run():
    steps = SkippedSteps(most=3)
    for step, taken in enumerate([False, False, True] * 5):
        steps.add(taken)
        steps.check(step, "")
    assert (steps.count, steps.in_a_row) == (10, 0)
    for _ in range(3):
        steps.add(False)
    with pytest.raises(InputError, match=r"3 steps in a row .* step 17: try that"):
        steps.check(17, "try that")


@pytest.mark.parametrize(("scaled", "bad"), [(False, "loss"), (False, "gradient"), (True, "loss"), (True, "gradient")])
def test_nerfstudios_optimizers_take_no_step_that_is_not_finite(scaled, bad):
    """In mixed precision as well, where the scaler sees to gradients, and lowers its scale."""
    value, losses = torch.nn.Parameter(torch.ones(3)), [torch.tensor(1.0)]
    config = {"a": {"optimizer": AdamOptimizerConfig(lr=0.1, max_norm=1.0), "scheduler": None}}
    optimizers = FiniteOptimizers(config, {"a": [value]}, lambda: losses)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=scaled)
    for step in range(3):
        optimizers.zero_grad_some(["a"])
        wrong = math.nan if step == 1 else 1.0
        losses[0] = torch.tensor(wrong if bad == "loss" else 1.0)
        scaler.scale((value * (wrong if bad == "gradient" else 1.0)).sum()).backward()
        before = value.detach().clone()
        optimizers.optimizer_scaler_step_some(scaler, ["a"])
        scale = scaler.get_scale()
        scaler.update()
        assert torch.equal(before, value) == (step == 1)
        assert optimizers.taken == (step != 1 or (scaled and bad == "gradient"))
        assert (scaler.get_scale() < scale) == (step == 1 and scaled and bad == "gradient")


class Host:
    """Either trainer, a few steps of the plain method, whose loss is spoiled in the steps in ``bad``."""

    def __init__(self, capture, folder, monkeypatch, spoil):
        self.bad, self._capture, self._folder = set(), capture, folder
        self._patch(monkeypatch, lambda loss, values: spoil(loss, values) if self.step in self.bad else loss)


def as_loss(loss, values):
    return loss * math.nan


def as_infinite_loss(loss, values):
    return loss + math.inf


def as_gradient(loss, values):
    return loss + (values - values.detach()).sqrt().sum()  # 0, whose gradient is infinite


class Gsplat(Host):
    def _patch(self, monkeypatch, spoil):
        config = tiny(self._capture, self._folder, max_steps=30, enhancer="none", save_steps=[4, 8], sh_degree=1)
        self.trainer = Trainer(config, load_data(config), CPU)
        good = objective.image_loss
        monkeypatch.setattr(objective, "image_loss", lambda *images: spoil(good(*images), self.trainer.splats["means"]))
        self.folder = self.trainer.outputs.checkpoints

    step = property(lambda self: self.trainer.step)
    skipped = property(lambda self: self.trainer.skipped.count)
    error = InputError

    def values(self):
        return [*self.trainer.splats.values(), *self.trainer.strategy_state.values()]

    def take(self, step):
        self.trainer.step = step
        self.trainer.learn(step)

    def saved(self):
        return checkpoint.load_full(checkpoint.newest_full(self.folder, 0))["splats"]["means"]

    def save(self):
        self.trainer.save(20)


class Nerfstudio(Host):
    def _patch(self, monkeypatch, spoil):
        options = {"pipeline__enhancer": "none", "final_report": False, "save_only_latest_checkpoint": True}
        config = tiny_config(self._capture, self._folder, steps_per_save=4, **options)
        good = VanillaPipeline.get_train_loss_dict

        def spoiled(pipeline, step):
            outputs, losses, metrics = good(pipeline, step)
            values = pipeline.model.gauss_params["means"]
            return outputs, {name: spoil(loss, values) for name, loss in losses.items()}, metrics

        monkeypatch.setattr(VanillaPipeline, "get_train_loss_dict", spoiled)
        self.trainer = start(config)
        self.folder = self.trainer.checkpoint_dir

    step = property(lambda self: self.trainer.step)
    skipped = property(lambda self: self.trainer.skipped.count)
    error = SystemExit

    def values(self):
        return [
            *self.trainer.pipeline.model.gauss_params.values(),
            *self.trainer.pipeline.model.strategy_state.values(),
        ]

    def take(self, step):
        self.trainer.step = step
        for callback in self.trainer.callbacks[:1]:
            callback.run_callback(step)  # gives the model its step
        self.trainer.train_iteration(step)
        self.trainer.pipeline.model.step_post_backward(step)

    def saved(self):
        return read_checkpoint(newest_checkpoint(self.folder))["pipeline"]["_model.gauss_params.means"]

    def save(self):
        self.trainer.save_checkpoint(20)


def copies(values):
    return [value.detach().clone() for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("spoil", [as_loss, as_infinite_loss, as_gradient])
@pytest.mark.parametrize("host", [Gsplat, Nerfstudio])
def test_a_step_that_is_not_finite_changes_nothing_and_the_next_one_learns(capture, tmp_path, monkeypatch, host, spoil):
    run = host(capture, tmp_path, monkeypatch, spoil)
    run.bad = {6, 7}
    run.take(5)
    before = copies(run.values())
    run.take(6)
    run.take(7)
    assert all(torch.equal(a, b) for a, b in zip(before, copies(run.values()), strict=True))
    assert run.skipped == 2
    run.take(8)
    after = copies(run.values())
    assert all(all_finite([value]) for value in after if value.is_floating_point())
    assert not torch.equal(before[0], after[0])
    assert run.skipped == 2


@pytest.mark.parametrize("host", [Gsplat, Nerfstudio])
def test_a_run_that_stays_without_finite_steps_ends_and_names_its_last_good_checkpoint(
    capture, tmp_path, monkeypatch, host
):
    run = host(capture, tmp_path, monkeypatch, as_loss)
    run.bad = set(range(9, 30))
    with pytest.raises(run.error, match=r"10 steps in a row .* step 18: .*last good checkpoint is .*go on with"):
        run.trainer.train()
    assert all_finite([run.saved()])


@pytest.mark.parametrize("host", [Gsplat, Nerfstudio])
def test_a_state_that_is_not_finite_is_not_saved_over_a_good_one(capture, tmp_path, monkeypatch, host):
    """However it came about: here by a bug, say of density control."""
    run = host(capture, tmp_path, monkeypatch, as_loss)
    run.save()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"}
    assert any(path.suffix in (".ckpt", ".ply") for path in before)
    run.values()[0].data[3] = math.nan
    with pytest.raises(InputError, match=r"is not saved, .*(means|features_dc) holds .* not finite: .*go on with --"):
        run.save()
    assert all(path.read_bytes() == content for path, content in before.items())
