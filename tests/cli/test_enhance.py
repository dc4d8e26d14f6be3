# SPDX-License-Identifier: Apache-2.0
"""``harmonizer enhance`` end to end, with enhancers whose effect can be told from the files."""

import numpy as np
import pytest
import tiny_cosmos
import torch
from PIL import Image
from torch.nn import functional as F
from toy_enhancer import ToyEnhancer

from harmonizer_ns.cli import enhance as command
from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.cosmos.enhancer import CosmosEnhancer
from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer
from harmonizer_ns.enhancers.images import repair_image
from harmonizer_ns.errors import InputError
from harmonizer_ns.footage.files import enhance_path, find_references
from harmonizer_ns.footage.sequence import FrameEnhancer
from harmonizer_ns.images import load_image, save_image, to_float
from harmonizer_ns.media import read_video, written_video
from harmonizer_ns.types import as_frames


class Negative(ToyEnhancer):
    """Inverts colours, or takes those of the first reference, and remembers what it was shown."""

    def __init__(self, max_context=0):
        self.max_references, self.max_context, self.calls = 3, max_context, []

    def enhance(self, frames, context=Context()):
        self.calls.append((len(frames), [output.rgb.clone() for output in context.history]))
        rgb = 1 - frames.rgb
        for i, photos in enumerate(context.references):
            if photos is not None:
                rgb[i] = photos.rgb[0]
        return Repaired(rgb, torch.ones_like(frames.alpha))


def picture(seed, height=24, width=32):
    coarse = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(height, width), mode="bilinear")[0]


@pytest.fixture
def negative(monkeypatch):
    enhancer = Negative()
    monkeypatch.setattr(command, "load_enhancer", lambda name, device, **options: enhancer)
    return enhancer


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        save_image(tmp_path / "in" / f"frame_{i}.png", picture(i))
    return tmp_path / "in"


@pytest.fixture
def video(tmp_path):
    with written_video(tmp_path / "in.mp4", 24000 / 1001) as writer:
        for i in range(6):
            writer.write(picture(i))
    return tmp_path / "in.mp4"


def run(*arguments):
    command.main(command.parse([str(argument) for argument in arguments]))


def test_an_image(folder, negative, tmp_path):
    run(folder / "frame_0.png", tmp_path / "out" / "one.png")
    assert (load_image(tmp_path / "out" / "one.png") - (1 - picture(0))).abs().max() < 0.005


def test_a_folder_in_batches(folder, negative, tmp_path):
    save_image(folder / "frame_6.png", picture(6, 10, 17))
    run(folder, tmp_path / "out", "--batch", 4)
    assert [count for count, _ in negative.calls] == [4, 2, 1]
    for i in range(6):
        assert (load_image(tmp_path / "out" / f"frame_{i}.png") - (1 - picture(i))).abs().max() < 0.005
    assert load_image(tmp_path / "out" / "frame_6.png").shape == (3, 10, 17)


def test_a_video(video, negative, tmp_path, capsys):
    run(video, tmp_path / "out.mp4", "--side-by-side")
    info, frames = read_video(tmp_path / "out.mp4")
    frames = to_float(torch.stack(list(frames)))
    assert info.fps == pytest.approx(24000 / 1001)
    assert frames.shape == (6, 3, 24, 64)
    before, after = frames.chunk(2, dim=-1)
    assert (before - torch.stack([picture(i) for i in range(6)])).abs().mean() < 0.03
    assert (after - (1 - before)).abs().mean() < 0.03
    assert "6 frames repaired" in capsys.readouterr().out


def test_a_video_to_a_folder_and_back(video, negative, tmp_path):
    run(video, tmp_path / "frames")
    assert sorted(path.name for path in (tmp_path / "frames").glob("*.png")) == [f"{i:06d}.png" for i in range(6)]
    run(tmp_path / "frames", tmp_path / "out.mov", "--fps", 12)
    info, frames = read_video(tmp_path / "out.mov")
    assert info.fps == 12
    assert (to_float(torch.stack(list(frames))) - torch.stack([picture(i) for i in range(6)])).abs().mean() < 0.03


def test_what_is_there_is_not_done_again(folder, video, negative, tmp_path, capsys):
    run(folder, tmp_path / "out")
    (tmp_path / "out" / "frame_3.png").unlink()
    negative.calls.clear()
    run(folder, tmp_path / "out")
    assert [count for count, _ in negative.calls] == [1]
    run(video, tmp_path / "out.mp4")
    negative.calls.clear()
    run(folder, tmp_path / "out")
    run(video, tmp_path / "out.mp4")
    assert negative.calls == []
    assert "nothing to do" in capsys.readouterr().out
    run(folder, tmp_path / "out", "--overwrite")
    assert sum(count for count, _ in negative.calls) == 6


def one_shot(count=6):
    """Frames of one shot: they differ little."""
    return [picture(0) * 0.8 + 0.02 * i for i in range(count)]


@pytest.mark.parametrize("side_by_side", [False, True])
def test_history_is_the_last_outputs_and_survives_a_resume(tmp_path, side_by_side):
    for i, frame in enumerate(one_shot()):
        save_image(tmp_path / "in" / f"{i}.png", frame)
    whole, resumed = Negative(max_context=3), Negative(max_context=3)
    for enhancer, again in ((whole, ()), (resumed, (4, 5))):
        for i in again:
            (tmp_path / "out" / f"{i}.png").unlink()
        enhance_path(tmp_path / "in", tmp_path / "out", FrameEnhancer(enhancer, find_references(())), side_by_side)
    assert [len(history) for _, history in whole.calls] == [0, 1, 2, 3, 3, 3]
    assert [len(history) for _, history in resumed.calls] == [3, 3]
    for _, history in (whole.calls[-1], resumed.calls[-1]):
        for output, frame in zip(history, one_shot()[4:1:-1], strict=True):
            assert (output[0] - (1 - frame)).abs().max() < 0.01


def test_history_ends_at_cuts_and_can_be_left_out(tmp_path):
    frames = one_shot(3) + [1 - frame for frame in one_shot(3)] + [picture(1, 10, 10)]
    for i, frame in enumerate(frames):
        save_image(tmp_path / "in" / f"{i}.png", frame)
    enhancer = Negative(max_context=3)
    enhance_path(tmp_path / "in", tmp_path / "out", FrameEnhancer(enhancer, find_references(())))
    assert [len(history) for _, history in enhancer.calls] == [0, 1, 2, 0, 1, 2, 0]
    for again, seen in ((3, 0), (4, 1)):  # also when what came before is not done again
        (tmp_path / "out" / f"{again}.png").unlink()
        enhancer.calls.clear()
        enhance_path(tmp_path / "in", tmp_path / "out", FrameEnhancer(enhancer, find_references(())))
        assert [len(history) for _, history in enhancer.calls] == [seen]
    enhancer.calls.clear()
    enhance_path(tmp_path / "in", tmp_path / "alone", FrameEnhancer(enhancer, find_references(()), temporal=False))
    assert [(count, len(history)) for count, history in enhancer.calls] == [(4, 0), (2, 0), (1, 0)]


def test_a_temporal_network_sees_what_a_loop_would_show_it(tmp_path):
    enhancer, history = CosmosEnhancer(tiny_cosmos.network(), cut=True), []
    for i, frame in enumerate(one_shot()):
        save_image(tmp_path / "in" / f"{i}.png", frame)
    enhance_path(tmp_path / "in", tmp_path / "out", FrameEnhancer(enhancer, find_references(())))
    for i in range(6):
        frames = as_frames(load_image(tmp_path / "in" / f"{i}.png"))
        history.insert(0, as_frames(enhancer.enhance(frames, Context(history=tuple(history))).rgb[0]))
        assert (load_image(tmp_path / "out" / f"{i}.png") - history[0].rgb[0]).abs().max() < 0.005


def test_references(folder, negative, tmp_path, caplog):
    for i, name in enumerate(("frame_4.jpg", "other.png")):
        save_image(tmp_path / "photos" / name, picture(20 + i))
    run(folder, tmp_path / "by_name", "--ref", tmp_path / "photos")
    run(folder, tmp_path / "one", "--ref", tmp_path / "photos" / "other.png")
    for i in range(6):
        assert (load_image(tmp_path / "one" / f"frame_{i}.png") - picture(21)).abs().max() < 0.005
    assert "5 of 6 frames, such as frame_0, have no photo of their name" in caplog.text
    unnamed = load_image(tmp_path / "by_name" / "frame_1.png")  # "other.png" is second, yet no photo of it
    assert (unnamed - (1 - picture(1))).abs().max() < 0.005
    by_name = load_image(tmp_path / "by_name" / "frame_4.png")
    assert (by_name - load_image(tmp_path / "photos" / "frame_4.jpg")).abs().max() < 0.005
    assert (load_image(tmp_path / "by_name" / "frame_5.png") - (1 - picture(5))).abs().max() < 0.005


def test_references_by_order(folder, negative, tmp_path):
    for i in range(3):
        save_image(tmp_path / "photos" / f"{i}.png", picture(20 + i))
    run(folder, tmp_path / "out", "--ref", tmp_path / "photos")
    for i in range(3):
        assert (load_image(tmp_path / "out" / f"frame_{i}.png") - picture(20 + i)).abs().max() < 0.005
    assert (load_image(tmp_path / "out" / "frame_3.png") - (1 - picture(3))).abs().max() < 0.005


def test_a_folder_is_not_mixed_from_two_settings(folder, negative, tmp_path):
    save_image(tmp_path / "photo.png", picture(20))
    run(folder, tmp_path / "out")
    run(folder, tmp_path / "out")  # goes on where it was
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for other in (("--ref", tmp_path / "photo.png"), ("--side-by-side",)):
        with pytest.raises(InputError, match=r"out holds images made with other settings .*--overwrite"):
            run(folder, tmp_path / "out", *other)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    run(folder, tmp_path / "out", "--ref", tmp_path / "photo.png", "--overwrite")
    assert (load_image(tmp_path / "out" / "frame_3.png") - picture(20)).abs().max() < 0.005


def test_a_broken_image_is_named_and_the_others_are_repaired(folder, negative, tmp_path):
    (folder / "frame_1.png").write_bytes(b"not a picture")
    (folder / "frame_4.png").write_bytes((folder / "frame_4.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"2 frames were left out.*frame_1\.png.*frame_4\.png"):
        run(folder, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [f"frame_{i}.png" for i in (0, 2, 3, 5)]


def test_bad_paths_give_one_clear_error(folder, video, negative, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "file").touch()
    for arguments, message in [
        ((tmp_path / "absent.png", tmp_path / "out.png"), r"there is no .*absent\.png"),
        ((folder, tmp_path / "out.xyz"), r"\.xyz"),
        ((video, tmp_path / "out.avi"), r"\.mp4"),
        ((folder, tmp_path / "out.png"), "cannot write the folder"),
        ((folder / "frame_0.png", tmp_path / "out.mp4"), "cannot write the image"),
        ((folder, folder), "is the input"),
        ((folder, tmp_path / "file" / "out"), "cannot write"),
        ((video, tmp_path / "file" / "out.mp4"), "cannot be written"),
        ((folder, tmp_path / "out", "--ref", tmp_path / "absent.png"), r"absent\.png"),
        ((folder, tmp_path / "out", "--device", "cuda"), "no GPU here"),
        ((folder, tmp_path / "out", "--batch", 0), "at least 1 frame, not 0"),
        ((folder, tmp_path / "out.mp4", "--fps", 0), "frames per second, not 0"),
        ((folder, tmp_path / "out", "--tile", 64), "the enhancer builtin has no --tile"),
        (
            (folder, tmp_path / "out", "--enhancer", "none", "--precision", "fp16"),
            "the enhancer none has no --precision",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            run(*arguments)


def test_warnings(folder, tmp_path, capsys):
    run(folder, tmp_path / "a", "--enhancer", "none", "--ref", folder)
    assert "none uses no reference photos" in capsys.readouterr().err
    run(folder / "frame_0.png", tmp_path / "b.png", "--enhancer", "builtin")
    assert "builtin warps photos by depth" in capsys.readouterr().err
    assert (load_image(tmp_path / "b.png") - load_image(folder / "frame_0.png")).abs().mean() < 0.05


def test_images_folders_and_videos_through_a_difix_folder(folder, video, tiny_difix, tmp_path, caplog):
    save_image(folder / "one_pixel.png", torch.rand(3, 1, 1))
    photo, enhancer = folder / "frame_5.png", DifixEnhancer.from_pretrained(tiny_difix)
    caplog.clear()
    for source, target in ((folder / "frame_0.png", "0.png"), (folder, "images"), (video, "clip.mp4")):
        run(source, tmp_path / target, "--enhancer", tiny_difix, "--ref", photo, "--tile", 64)
    assert caplog.text.count("NVIDIA License, non-commercial use only") == 3
    pictures = [Image.open(folder / f"frame_{i}.png") for i in range(6)]
    expected = repair_image(enhancer, pictures, ref_image=Image.open(photo))
    expected = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in expected])
    repaired = torch.stack([load_image(tmp_path / "images" / f"frame_{i}.png") for i in range(6)])
    assert (repaired - expected).abs().max() < 1.5 / 255
    assert torch.equal(load_image(tmp_path / "0.png"), repaired[0])
    assert load_image(tmp_path / "images" / "one_pixel.png").shape == (3, 1, 1)
    assert (to_float(torch.stack(list(read_video(tmp_path / "clip.mp4")[1]))) - expected).abs().mean() < 0.1


@pytest.mark.gpu
def test_a_video_on_a_gpu(video, tiny_difix, tmp_path, caplog):
    for device in ("cpu", "cuda"):
        run(video, tmp_path / f"{device}.mp4", "--enhancer", tiny_difix, "--device", device)
    clips = [to_float(torch.stack(list(read_video(tmp_path / f"{name}.mp4")[1]))) for name in ("cpu", "cuda")]
    assert (clips[0] - clips[1]).abs().mean() < 0.02


def test_precision_reaches_the_network(folder, tiny_difix, tmp_path, monkeypatch):
    seen = []
    enhance = DifixEnhancer.enhance
    monkeypatch.setattr(
        DifixEnhancer, "enhance", lambda self, *a: seen.append(self.network.prompt_embedding.dtype) or enhance(self, *a)
    )
    run(folder / "frame_0.png", tmp_path / "0.png", "--enhancer", tiny_difix, "--precision", "bf16", "--device", "cpu")
    assert seen == [torch.bfloat16]
