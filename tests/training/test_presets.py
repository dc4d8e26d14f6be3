# SPDX-License-Identifier: Apache-2.0
"""Every preset, on scaled-down networks with random weights."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from clip_toys import HEIGHT, WIDTH, write_clip
from torchvision.models import squeezenet1_1
from two_processes import run_two

from harmonizer_ns.cli import train as command
from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.difix.network import DifixNetwork
from harmonizer_ns.enhancers.lora import COSMOS
from harmonizer_ns.enhancers.specs import load_enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.training.checkpoints import list_runs, load_run
from harmonizer_ns.training.config import LossConfig, OneStepConfig, PartConfig, TrainingConfig
from harmonizer_ns.training.journal import curves, read_log
from harmonizer_ns.training.models import make_ready
from harmonizer_ns.training.presets import PRESETS
from harmonizer_ns.training.setup import train
from harmonizer_ns.training.trainee import trainable
from harmonizer_ns.types import Cameras, Frames

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = {
    "difix": str(CONFIGS / "difix-tiny.json"),
    "fixer": str(CONFIGS / "fixer-tiny.json"),
    "harmonizer": str(CONFIGS / "harmonizer-tiny.json"),
    "harmonizer-published": str(CONFIGS / "harmonizer-tiny.json"),
    "detail-restoration": str(CONFIGS / "difix-tiny.json"),
    "temporal-sd-turbo": str(CONFIGS / "temporal-sd-turbo-tiny.json"),
    "builtin": "new",
}


@pytest.fixture(autouse=True)
def _fresh_processes():
    """Accelerate remembers the precision of a process's first run."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory) -> Path:
    """Random weights, in a file that was asked for."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


def tiny(name: str, pairs: Path, output: Path, squeezenet: Path | None = None, steps: int = 2) -> TrainingConfig:
    """The preset on small crops, with its own losses on a small feature network, for a few steps."""
    preset = PRESETS[name].config
    config = replace(
        preset,
        pairs=(pairs,),
        output=output,
        model=MODELS[name],
        device="cpu",
        precision="fp32",
        data=replace(preset.data, height=HEIGHT, width=WIDTH, workers=0, accumulation=1, batch=2, validation_pairs=1),
        schedule=replace(preset.schedule, max_steps=steps, warm_up=1),
        loss=replace(preset.loss, net="squeeze", backbone=squeezenet, gram_after=min(preset.loss.gram_after, 1)),
        saving=replace(preset.saving, every=steps // 2, validate_every=steps, log_every=1, tracker="none"),
    )
    if not isinstance(config, OneStepConfig):
        return config
    return replace(config, temporal=replace(config.temporal, start=0, clip=max(config.temporal.context + 1, 2)))


def weights(output: Path) -> dict[str, torch.Tensor]:
    content = load_run(list_runs(output / "checkpoints")[-1])
    return {f"{group}/{name}": value for group, named in content.tensors.items() for name, value in named.items()}


def frames(count: int = 1) -> Frames:
    torch.manual_seed(0)
    image = torch.rand(count, 3, HEIGHT, WIDTH)
    cameras = Cameras(torch.eye(4).repeat(count, 1, 1), torch.eye(3).repeat(count, 1, 1), WIDTH, HEIGHT)
    return Frames(image, torch.ones_like(image[:, :1]), torch.ones_like(image[:, :1]), cameras)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_trains_resumes_exactly_and_exports(name, pairs, squeezenet, tmp_path):
    whole, parts = (tiny(name, pairs, tmp_path / folder, squeezenet, steps=4) for folder in ("whole", "parts"))
    outcome = train(whole)
    assert outcome.finished
    assert outcome.skipped == 0
    assert set(outcome.figures) >= {"psnr", "ssim"}
    halfway = list_runs(whole.output / "checkpoints")[0]
    (parts.output / "checkpoints").mkdir(parents=True)
    halfway.rename(parts.output / "checkpoints" / halfway.name)
    train(replace(parts, resume=True))
    first, second = weights(whole.output), weights(parts.output)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    enhancer = load_enhancer(whole.output / "enhancer")
    assert enhancer.max_references == whole.data.references
    repaired = enhancer.enhance(frames(2), Context()).rgb
    assert repaired.shape == (2, 3, HEIGHT, WIDTH)
    assert bool(((repaired >= 0) & (repaired <= 1)).all())


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_trains_on_a_gpu_in_its_half_precision(name, pairs, squeezenet, tmp_path):
    config = replace(tiny(name, pairs, tmp_path, squeezenet), device="cuda", precision="auto")
    assert config.schedule.max_steps == 2
    outcome = train(config)
    assert (outcome.finished, outcome.skipped) == (True, 0)
    assert load_run(list_runs(tmp_path / "checkpoints")[-1]).state["identity"]["precision"] == "bf16"
    assert (tmp_path / "enhancer").is_dir()


def test_half_of_the_steps_show_context(pairs, squeezenet, tmp_path):
    """Of the temporal presets, every second step has a temporal term, after a start on single frames."""
    config = tiny("harmonizer", pairs, tmp_path / "run", squeezenet, steps=6)
    train(replace(config, temporal=replace(config.temporal, start=2)))
    assert [step for step, _ in curves(read_log(config.output), ("temporal",))["temporal"]] == [4, 6]


def test_half_precision_leaves_the_weights_in_full(pairs, squeezenet, tmp_path):
    config = replace(tiny("fixer", pairs, tmp_path, squeezenet), precision="bf16")
    assert train(config).skipped == 0
    assert all(value.dtype == torch.float32 for value in weights(config.output).values())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_train_and_go_on_on_a_gpu(name, precision, pairs, squeezenet, tmp_path):
    """In float16 the first steps look for a scale of the loss, and may be skipped."""
    config = replace(tiny(name, pairs, tmp_path, squeezenet, steps=4), device="cuda", precision=precision)
    longer = replace(config, resume=True, schedule=replace(config.schedule, max_steps=6))
    for each in (config, longer):
        outcome = train(each)
        assert outcome.finished
        assert outcome.skipped <= (3 if precision == "fp16" else 0)
    assert all(value.dtype == torch.float32 for value in weights(config.output).values())
    repaired = load_enhancer(config.output / "enhancer", "cuda").enhance(frames(2).to("cuda"), Context()).rgb
    assert repaired.is_cuda
    assert repaired.isfinite().all()


def test_detail_restoration_trains_eighteen_and_a_half_million_parameters():
    """On the full architecture; nothing is allocated."""
    config = PRESETS["detail-restoration"].config
    with torch.device("meta"):
        network = DifixNetwork.from_config(json.loads((CONFIGS / "difix.json").read_text()))
        make_ready(network, config)
    assert sum(value.numel() for value in trainable(network).values()) == 18_535_352
    assert (network.timestep, network.skip_dropout) == (999, 0.3)


def test_presets_hold_the_papers_numbers():
    difix, fixer, harmonizer, detail = (
        PRESETS[name].config for name in ("difix", "fixer", "harmonizer", "detail-restoration")
    )
    assert (difix.loss.l2, difix.loss.lpips, difix.loss.gram, difix.loss.gram_after) == (1, 1, 0.5, 2000)
    assert (difix.optimizer.learning_rate, difix.schedule.max_steps) == (2e-5, 10_000)
    assert (difix.backbone.mode, difix.vae.mode, difix.vae.rank) == ("full", "lora", 4)
    assert (fixer.vae.mode, fixer.loss.patches, fixer.data.references) == ("frozen", 1, 0)
    assert (harmonizer.temporal.context, harmonizer.temporal.start) == (4, 10_000)
    assert harmonizer.schedule.max_steps == 14_000
    published = PRESETS["harmonizer-published"].config
    assert published.loss == LossConfig(l2=1.0, lpips=0.3)
    assert (published.data.fixing, published.temporal.context, published.schedule.max_steps) == (3.0, 0, 10_000)
    assert (detail.backbone.rank, detail.vae.rank, detail.loss.l1, detail.loss.gram) == (16, 8, 0.5, 0.07)
    assert (detail.optimizer.learning_rate, detail.schedule.warm_up, detail.schedule.decay) == (5e-5, 500, "linear")


@pytest.fixture(scope="module")
def trained(pairs, squeezenet, tmp_path_factory) -> TrainingConfig:
    """Detail restoration after steps that matter, with a file for Difix's own code."""
    config = tiny("detail-restoration", pairs, tmp_path_factory.mktemp("trained"), squeezenet)
    saving, optimizer = replace(config.saving, difix_checkpoint=True), replace(config.optimizer, learning_rate=1e-2)
    train(replace(config, saving=saving, optimizer=optimizer))
    return config


def test_a_cosmos_network_can_go_on(pairs, squeezenet, tmp_path):
    first = tiny("fixer", pairs, tmp_path / "first", squeezenet)
    train(first)
    still = replace(first.optimizer, learning_rate=0.0)
    again = replace(first, output=tmp_path / "again", model=str(first.output / "enhancer"), optimizer=still)
    train(replace(again, backbone=PartConfig("lora", 2, COSMOS)))
    before, after = (load_enhancer(config.output / "enhancer").enhance(frames()).rgb for config in (first, again))
    assert torch.allclose(before, after, atol=1e-5)


def test_what_was_trained_can_go_on(trained, tmp_path):
    """An exported folder is a model to start from; steps of size 0 leave it as it was."""
    still = replace(trained.optimizer, learning_rate=0.0)
    again = replace(trained, output=tmp_path, model=str(trained.output / "enhancer"), optimizer=still)
    train(again)
    before, after = (load_enhancer(config.output / "enhancer").enhance(frames()).rgb for config in (trained, again))
    assert torch.allclose(before, after, atol=1e-5)


def test_difix_can_read_what_was_trained(trained):
    """The .pkl holds the UNet with adapters merged and the VAE's beside it, and says what the exported folder says."""
    content = torch.load(trained.output / "model_2.pkl", weights_only=True)
    assert content["rank_vae"] == 8
    assert not any("lora" in key for key in content["state_dict_unet"])
    folder = load_enhancer(trained.output / "enhancer").network
    for key, value in content["state_dict_unet"].items():
        assert torch.allclose(value, folder.state_dict()[f"unet.{key}"], atol=1e-6)
    vae, layer = content["state_dict_vae"], "decoder.skip_conv_1"
    down, up = (vae[f"{layer}.lora_{part}.vae_skip.weight"].flatten(1) for part in "AB")
    added = (8 / 8 * up @ down)[:, :, None, None]
    assert torch.allclose(vae[f"{layer}.base_layer.weight"] + added, folder.vae.decoder.skip_conv_1.weight, atol=1e-6)
    assert added.abs().max() > 1e-6


def _member(rank: int, port: int, options: list[str]) -> None:
    """One of two processes, as torchrun starts it."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
    place |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    command.main(command.parse(options))


def test_two_processes_train_as_one(pairs, tmp_path):
    """The same weights for the same global batch, with clips and accumulation, through torchrun's variables and gloo.

    A large epsilon keeps the optimizer from magnifying how gradients near 0 are rounded.
    """
    options = [
        *("temporal-sd-turbo", "--pairs", str(pairs), "--model", MODELS["temporal-sd-turbo"]),
        *("--device", "cpu", "--precision", "fp32", "--data.height", str(HEIGHT), "--data.width", str(WIDTH)),
        *("--data.accumulation", "2", "--data.workers", "0", "--schedule.max-steps", "2", "--schedule.warm-up", "0"),
        *("--loss.lpips", "0", "--loss.gram", "0", "--temporal.start", "0", "--temporal.clip", "5"),
        *("--optimizer.learning-rate", "1e-2", "--optimizer.epsilon", "1e-2", "--saving.tracker", "none"),
    ]
    command.main(command.parse([*options, "--output", str(tmp_path / "one"), "--data.batch", "2"]))
    together = [*options, "--output", str(tmp_path / "two"), "--data.batch", "1"]
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    run_two(_member, store.port, together)
    one, two = (load_run(list_runs(tmp_path / name / "checkpoints")[-1]).tensors["weights"] for name in ("one", "two"))
    assert max((one[name] - two[name]).abs().max() for name in one) < 1e-5
    torch.manual_seed(0)
    start = DifixNetwork.from_config(json.loads(Path(MODELS["temporal-sd-turbo"]).read_text())).state_dict()
    assert max((one[name] - start[name]).abs().max() for name in one if name in start) > 1e-3


def test_bad_input_is_one_clear_error(pairs, squeezenet, tmp_path, capsys):
    for name in ("unknown", "difx"):
        with pytest.raises(SystemExit):
            command.main(command.parse([name, "--pairs", str(pairs), "--output", str(tmp_path)]))
        assert name in capsys.readouterr().err
    config = tiny("harmonizer", pairs, tmp_path / "run", squeezenet)
    (tmp_path / "empty.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"format": "harmonizer-training"}')
    bad = [
        (replace(config, pairs=(tmp_path / "none.json",)), "none.json is missing"),
        (replace(config, model=str(tmp_path / "empty.json")), "empty.json is not JSON"),
        (replace(config, model=str(tmp_path / "list.json")), "holds a list"),
        (replace(config, model=MODELS["difix"]), "network 'cosmos', the configuration is for 'difix'"),
        (replace(config, model=str(tmp_path / "folder")), "harmonizer-enhancer"),
        (replace(config, temporal=replace(config.temporal, context=2)), "looks at 4 previous outputs"),
        (replace(config, temporal=replace(config.temporal, clip=20)), "no pairs file has a clip of 20"),
        (replace(config, timestep=3), "--timestep 3"),
        (replace(config, data=replace(config.data, references=1)), "Cosmos networks use no reference photos"),
        (
            replace(config, saving=replace(config.saving, difix_checkpoint=True)),
            "difix-checkpoint needs a single-frame",
        ),
        (replace(config, precision="fp16"), "fp16 needs a GPU"),
        (replace(config, loss=replace(config.loss, backbone=tmp_path / "none.pth")), "no weights at .*none.pth"),
    ]
    for wrong, message in bad:
        with pytest.raises(InputError, match=message):
            train(wrong)
    assert not (config.output / "checkpoints").exists()


def test_the_builtin_network_needs_geometry(tmp_path):
    pairs = write_clip(tmp_path, geometry=False)
    with pytest.raises(InputError, match='no pair to train on has "depth" and "cameras"'):
        train(tiny("builtin", pairs, tmp_path / "run"))


def test_the_builtin_network_takes_pairs_without_geometry_among_others(pairs, tmp_path):
    plain = write_clip(tmp_path / "plain", geometry=False)
    config = tiny("builtin", pairs, tmp_path / "run", steps=2)
    train(replace(config, pairs=(*config.pairs, plain), data=replace(config.data, batch=1, weights=(0.0, 1.0))))
    assert (config.output / "enhancer").is_dir()
