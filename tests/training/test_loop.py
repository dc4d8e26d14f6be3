# SPDX-License-Identifier: Apache-2.0
"""The training loop, on a toy network."""

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from loop_toys import ToyData, ToyTrainee, toy_config, toy_run
from pretended_cuda import counted

from harmonizer_ns.enhancers.one_step import channels_last
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import locked
from harmonizer_ns.images import load_image
from harmonizer_ns.training.checkpoints import list_runs, load_run
from harmonizer_ns.training.config import DataConfig, OptimizerConfig, SavingConfig, ScheduleConfig, TemporalConfig
from harmonizer_ns.training.journal import curves, read_log
from harmonizer_ns.training.stepper import Stepper


def weights(output: Path) -> dict[str, torch.Tensor]:
    content = load_run(list_runs(output / "checkpoints")[-1])
    return {f"{group}/{name}": value for group, named in content.tensors.items() for name, value in named.items()}


def assert_equal(first: dict, second: dict):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path):
    """20 steps, and 10 steps, a break and 10 more: weights, moments, averages and losses are bit-identical."""
    schedule = ScheduleConfig(max_steps=20, warm_up=4, decay="cosine")
    config = toy_config(tmp_path / "whole", schedule=schedule, saving=SavingConfig(every=10, log_every=1))
    toy_run(config, ToyTrainee(dropout=0.3))[0].train()
    (tmp_path / "parts" / "checkpoints").mkdir(parents=True)
    (tmp_path / "whole/checkpoints/step-00000010").rename(tmp_path / "parts/checkpoints/step-00000010")
    (tmp_path / "parts/log.jsonl").write_bytes((tmp_path / "whole/log.jsonl").read_bytes())
    torch.rand(7)  # the state of the global generator does not matter
    run, _ = toy_run(replace(config, output=tmp_path / "parts", resume=True), ToyTrainee(dropout=0.3))
    assert run.step == 10
    assert run.train().finished
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")


def test_the_rates_that_were_used_follow_the_schedule(tmp_path):
    run, _ = toy_run(toy_config(tmp_path / "run"))
    steps, step = [], run.stepper.optimizer.step
    run.stepper.optimizer.step = lambda: (steps.append(run.stepper.optimizer.param_groups[0]["lr"]), step())[1]
    run.train()
    expected = [0.0025, 0.005, 0.0075, 0.01, *(0.01 * k / 6 for k in (5, 4, 3, 2, 1, 0))]
    assert steps == pytest.approx(expected)
    logged = curves(read_log(tmp_path / "run"), ("lr",))["lr"]
    assert [rate for _, rate in logged] == steps


def test_a_cosine_rises_then_falls_to_its_floor():
    config = ScheduleConfig(max_steps=100, warm_up=10, decay="cosine", floor=0.01)
    rates = [config.factor(step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1)
    assert rates[54] == pytest.approx(0.505)
    assert rates[-1] == pytest.approx(0.01)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_a_rate_of_zero_changes_nothing_and_clipping_bounds_the_step(tmp_path):
    still, trainee = toy_run(toy_config(tmp_path / "a", optimizer=OptimizerConfig(learning_rate=0.0)))
    before = {name: value.clone() for name, value in trainee.network.state_dict().items()}
    still.train()
    assert_equal(before, trainee.network.state_dict())
    run, _ = toy_run(toy_config(tmp_path / "b", optimizer=OptimizerConfig(clip=1e-3)))
    run.stepper.step(1, [ToyData().batch(1, 0)])
    norm = torch.stack([value.grad.norm() for value in run.stepper.parameters.values()]).norm()
    assert norm <= 1.001e-3


def test_accumulated_batches_are_one_large_batch(tmp_path):
    one, _ = toy_run(toy_config(tmp_path / "one", data=DataConfig(batch=4, workers=0)))
    one.train()
    data = DataConfig(batch=2, accumulation=2, workers=0)
    two, _ = toy_run(toy_config(tmp_path / "two", data=data), data=ToyData(2, accumulation=2))
    two.train()
    for name, value in one.stepper.parameters.items():
        assert torch.allclose(value, two.stepper.parameters[name], atol=1e-6), name


def test_workers_change_nothing(tmp_path):
    for workers in (0, 2):
        toy_run(toy_config(tmp_path / str(workers), data=DataConfig(batch=2, workers=workers)))[0].train()
    assert_equal(weights(tmp_path / "0"), weights(tmp_path / "2"))


def test_the_average_is_exported_and_the_weights_stay(tmp_path):
    run, trainee = toy_run(toy_config(tmp_path / "run", optimizer=OptimizerConfig(learning_rate=1e-2, average=0.99)))
    seen = {}
    trainee.export = lambda folder, metadata: seen.update(
        {k: v.clone() for k, v in trainee.network.state_dict().items()}
    )
    run.train()
    stored = weights(tmp_path / "run")
    assert torch.equal(seen["2.weight"], stored["average/2.weight"])
    assert torch.equal(trainee.network[2].weight, stored["weights/2.weight"])
    assert not torch.equal(stored["average/2.weight"], stored["weights/2.weight"])


def test_the_average_follows_its_recursion(tmp_path):
    run, trainee = toy_run(toy_config(tmp_path / "run"))
    expected = trainee.network[2].bias.detach().clone()
    for step in range(1, 6):
        run.stepper.step(step, [ToyData().batch(step, 0)])
        decay = min(0.9, step / (step + 10))
        expected += (1 - decay) * (trainee.network[2].bias.detach() - expected)
    assert torch.allclose(run.stepper.average.values["2.bias"], expected, atol=1e-6)


def test_old_checkpoints_go_and_the_last_step_is_always_saved(tmp_path):
    saving = SavingConfig(every=3, keep=2, validate_every=100, tracker="none")
    toy_run(toy_config(tmp_path / "run", saving=saving))[0].train()
    assert [path.name for path in list_runs(tmp_path / "run/checkpoints")] == ["step-00000009", "step-00000010"]
    assert {path.suffix for path in (tmp_path / "run/checkpoints").rglob("*.*")} == {".json", ".safetensors"}


def test_what_a_killed_process_left_behind_goes(tmp_path):
    stale = tmp_path / "run/checkpoints/.step-00000003.partial"
    stale.mkdir(parents=True)
    toy_run(toy_config(tmp_path / "run"))[0].train()
    assert not stale.exists()


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        (SavingConfig, "every", 0),
        (SavingConfig, "keep", 0),
        (DataConfig, "batch", 0),
        (DataConfig, "height", 0),
        (DataConfig, "zoom", 0.5),
        (OptimizerConfig, "average", 1.0),
        (ScheduleConfig, "max_steps", 0),
        (TemporalConfig, "every", 0),
    ],
)
def test_options_that_make_no_sense_are_named(group, name, value):
    with pytest.raises(InputError, match=rf"--\w+\.{name.replace('_', '-')} should be .*{value}"):
        group(**{name: value})


def test_a_run_writes_figures_a_sheet_and_event_files(tmp_path):
    saving = SavingConfig(validate_every=5, log_every=2, tracker="tensorboard")
    outcome = toy_run(toy_config(tmp_path / "run", saving=saving))[0].train()
    found = curves(read_log(tmp_path / "run"), ("loss", "test/psnr", "test/ssim", "nothing"))
    assert [step for step, _ in found["loss"]] == [1, 2, 4, 6, 8, 10]
    assert [step for step, _ in found["test/psnr"]] == [5, 10]
    assert found["test/psnr"][-1][1] == outcome.figures["psnr"]
    assert "nothing" not in found
    assert load_image(tmp_path / "run/samples/step-00000010.png").shape == (3, 2 * (16 + 4), 3 * 16 + 2 * 4)
    assert list((tmp_path / "run/tensorboard").glob("events*"))


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_steps_without_a_finite_gradient_change_nothing_and_are_counted(tmp_path, bad):
    trainee = ToyTrainee()
    good = trainee.loss

    def sometimes(network, batch, step):
        loss, parts = good(network, batch, step)
        if step not in (3, 4):
            return loss, parts
        return (loss * torch.nan if bad == "loss" else loss + (network[2].weight - network[2].weight).sqrt().sum()), {}

    trainee.loss = sometimes
    run, _ = toy_run(toy_config(tmp_path / "run"), trainee)
    outcome = run.train()
    assert outcome.finished
    assert outcome.skipped == 2
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())
    assert float(weights(tmp_path / "run")["optimizer/step/2.bias"]) == 8
    assert [entry["skipped"] for entry in read_log(tmp_path / "run") if "skipped" in entry] == [0, 0, 1, *[2] * 7]
    assert "NaN" not in (tmp_path / "run/log.jsonl").read_text()


def test_too_many_bad_steps_in_a_row_end_the_run_and_keep_its_checkpoints(tmp_path):
    trainee = ToyTrainee()
    good = trainee.loss
    trainee.loss = lambda network, batch, step: (good(network, batch, step)[0] * (1 if step < 7 else torch.inf), {})
    run, _ = toy_run(toy_config(tmp_path / "run", optimizer=OptimizerConfig(max_skipped=3)), trainee)
    with pytest.raises(InputError, match=r"3 steps in a row.*step 9.*--optimizer.learning-rate"):
        run.train()
    assert [path.name for path in list_runs(tmp_path / "run/checkpoints")] == ["step-00000005"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")]
)
def test_running_out_of_memory_says_what_to_lower(tmp_path, error):
    trainee = ToyTrainee()

    def fail(*_):
        raise error

    trainee.loss = fail
    run, _ = toy_run(toy_config(tmp_path / "run", data=DataConfig(batch=2, workers=0, height=64, width=96)), trainee)
    wanted = r"step 1 with batches of 2 at 96x64: lower --data.batch .*--data.height.*gradient-checkpointing.*bf16"
    with pytest.raises(InputError, match=wanted):
        run.train()


def test_other_errors_are_not_taken_for_lack_of_memory(tmp_path):
    trainee = ToyTrainee()
    trainee.loss = lambda *_: torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(RuntimeError, match="inconsistent"):
        toy_run(toy_config(tmp_path / "run"), trainee)[0].train()


def interrupted(tmp_path, number: int):
    trainee = ToyTrainee()
    good = trainee.loss

    def signalling(network, batch, step):
        if step == 3:
            os.kill(os.getpid(), number)
        return good(network, batch, step)

    trainee.loss = signalling
    return toy_run(toy_config(tmp_path / "run"), trainee)[0].train()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_saves_and_can_go_on(tmp_path, number):
    handler = signal.getsignal(number)
    outcome = interrupted(tmp_path, number)
    assert (outcome.step, outcome.finished) == (3, False)
    assert signal.getsignal(number) is handler
    assert not (tmp_path / "run/enhancer").exists()
    toy_run(toy_config(tmp_path / "run", resume=True))[0].train()
    toy_run(toy_config(tmp_path / "whole"))[0].train()
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_the_output_folder_of_a_run_is_not_overwritten(tmp_path):
    config = toy_config(tmp_path / "run")
    toy_run(config)[0].train()
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match=r"holds a run already \(step-00000010\).*--resume"):
        toy_run(config)
    for wrong in (
        replace(config, resume=True, optimizer=replace(config.optimizer, learning_rate=1.0)),
        replace(config, resume=True, preset="other"),
    ):
        with pytest.raises(InputError, match=r"another run: (optimizer.learning_rate was 0.01, is 1.0|preset was)"):
            toy_run(wrong)
    with pytest.raises(InputError, match="another run: the pairs was"):
        toy_run(replace(config, resume=True), data=ToyData(seed=1))
    with pytest.raises(InputError, match="another run: the model was"):
        toy_run(replace(config, resume=True), ToyTrainee(seed=1))
    with pytest.raises(InputError, match="nothing to resume"):
        toy_run(replace(config, resume=True, output=tmp_path / "empty"))
    assert_equal(before, weights(tmp_path / "run"))


def test_a_folder_in_which_a_run_is_at_work_is_refused(tmp_path):
    run, _ = toy_run(toy_config(tmp_path / "run"))
    with locked(tmp_path / "run"), pytest.raises(InputError, match=r"process \d+ on .* is working .*another --output"):
        run.train()


def test_a_run_may_go_on_in_smaller_batches(tmp_path):
    """As the advice for lack of memory says: the same pairs a step, in more batches."""
    config = toy_config(tmp_path / "run", data=DataConfig(batch=4, workers=0))
    toy_run(config)[0].train()
    smaller = replace(config.data, batch=2, accumulation=2)
    longer = replace(config, resume=True, schedule=replace(config.schedule, max_steps=12), data=smaller)
    assert toy_run(longer, data=ToyData(2, accumulation=2))[0].train().finished
    with pytest.raises(InputError, match="the number of pairs in a step was 4, is 6"):
        toy_run(replace(longer, data=replace(config.data, batch=6)))


def test_a_finished_run_can_be_made_longer(tmp_path):
    config = toy_config(tmp_path / "run")
    toy_run(config)[0].train()
    longer = replace(config, resume=True, schedule=replace(config.schedule, max_steps=12))
    assert toy_run(longer)[0].train().step == 12


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), r"weights\.safetensors is missing or dam"),
        (lambda folder: (folder / "optimizer.safetensors").unlink(), r"optimizer\.safetensors is missing"),
        (lambda folder: (folder / "state.json").write_text("{"), r"state\.json is not JSON"),
        (lambda folder: (folder / "state.json").write_text('{"format": "harmonizer-enhancer"}'), "with --model"),
        (
            lambda folder: (folder / "state.json").write_text(
                json.dumps(json.loads((folder / "state.json").read_text()) | {"version": 7})
            ),
            "reads version 1",
        ),
        (
            lambda folder: (folder / "state.json").write_text(
                json.dumps(json.loads((folder / "state.json").read_text()) | {"step": float("inf")})
            ),
            r"state\.json was not written",
        ),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path, damage, message):
    config = toy_config(tmp_path / "run")
    toy_run(config)[0].train()
    damage(list_runs(tmp_path / "run/checkpoints")[-1])
    with pytest.raises(InputError, match=message):
        toy_run(replace(config, resume=True))


@pytest.mark.parametrize(
    ("log_every", "message"),
    [
        (100, r"cannot write .*step-00000010: .*step-00000005 is intact.*--resume"),
        (1, r"cannot write .*log\.jsonl: .*--resume"),
    ],
)
def test_a_full_disk_is_one_clear_error_and_the_last_checkpoint_stays(tmp_path, log_every, message):
    """Files cannot grow beyond a limit from step 6 on, so the save at step 10 or the log fails half way."""
    trainee = ToyTrainee()
    good, limits = trainee.loss, resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(network, batch, step):
        if step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
        return good(network, batch, step)

    trainee.loss = filling
    config = toy_config(tmp_path / "run", saving=SavingConfig(every=5, log_every=log_every, validate_every=100))
    run, _ = toy_run(replace(config, saving=replace(config.saving, tracker="none")), trainee)
    try:
        with pytest.raises(InputError, match=message):
            run.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000005"]
    assert toy_run(replace(config, resume=True))[0].train().finished


def test_a_disk_that_is_nearly_full_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(InputError, match=r"0\.00 GB free.*--output"):
        toy_run(toy_config(tmp_path / "run"))


def test_nothing_to_train_is_an_error(tmp_path):
    trainee = ToyTrainee()
    trainee.network.requires_grad_(False)
    with pytest.raises(InputError, match="nothing is trained"):
        toy_run(toy_config(tmp_path / "run"), trainee)


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_a_step_waits_once_and_a_resumed_one_is_the_same(tmp_path):
    """For loss, terms and the gradient's norm together. Fused steps want moments laid out as the weights are."""

    def stepper():
        trainee = ToyTrainee()
        trainee.network = channels_last(trainee.network).to("cuda")
        return Stepper(toy_config(tmp_path), trainee, accelerator)

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator()
    whole, resumed = stepper(), stepper()
    batches = [tuple(part.to("cuda") for part in ToyData().batch(1, 0))]
    whole.step(1, batches)
    saved = {}
    for group, named in whole.tensors().items():
        saved[group] = {name: value.detach().cpu().contiguous() for name, value in named.items()}
    resumed.load(saved, {})
    with counted() as counts:
        report = whole.step(2, batches)
    assert report.taken
    assert report.loss == report.values["l2"]
    # The other one is clip_grad_norm_'s, whose C++ takes the pretended GPU for a CPU.
    assert (counts.waits, counts.up, counts.down) == (2, 0, 2), str(counts)
    assert resumed.step(2, batches) == report
    for name, value in whole.parameters.items():
        assert torch.equal(value, resumed.parameters[name])
        assert torch.equal(whole.average.values[name], resumed.average.values[name])
    AcceleratorState._reset_state(reset_partial_state=True)
