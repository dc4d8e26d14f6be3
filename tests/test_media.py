# SPDX-License-Identifier: Apache-2.0
import re
import subprocess

import pytest
import torch
from torch.nn import functional as F

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image, to_float
from harmonizer_ns.media import image_files, join_videos, media_kind, read_video, written_video


def smooth_frames(count=5, height=48, width=64):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return 0.2 + 0.6 * F.interpolate(coarse, size=(height, width), mode="bilinear")


def write(path, frames, fps=25.0, joinable=False):
    with written_video(path, fps, joinable) as writer:
        for frame in frames:
            writer.write(frame)


def streams(path):
    from imageio_ffmpeg import get_ffmpeg_exe

    return subprocess.run([get_ffmpeg_exe(), "-i", str(path)], capture_output=True, text=True).stderr


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_videos_come_back(tmp_path, suffix, size):
    frames = smooth_frames(5, *size)
    write(tmp_path / f"clip{suffix}", frames)
    info, decoded = read_video(tmp_path / f"clip{suffix}")
    again = to_float(torch.stack(list(decoded)))
    assert (info.height, info.width, info.fps) == (*size, 25.0)
    assert again.shape == frames.shape
    assert (again - frames).abs().mean() < 0.015
    assert (again - frames).mean(dim=(2, 3)).abs().max() < 0.01  # colours are not off, wherever coding blurs
    assert [path.name for path in tmp_path.iterdir()] == [f"clip{suffix}"]


@pytest.mark.parametrize("fps", [12.5, 24, 24000 / 1001, 30000 / 1001, 60])
def test_frame_rates_stay(tmp_path, fps):
    write(tmp_path / "clip.mp4", smooth_frames(2, 16, 16), fps)
    assert read_video(tmp_path / "clip.mp4")[0].fps == pytest.approx(fps, abs=1e-6)


def test_sound_is_taken_over_where_there_is_some(tmp_path):
    from imageio_ffmpeg import get_ffmpeg_exe

    sound = ["-f", "lavfi", "-i", "sine=440:duration=0.3", "-c:a", "aac", str(tmp_path / "sound.mp4")]
    subprocess.run([get_ffmpeg_exe(), "-v", "error", *sound], check=True)
    write(tmp_path / "silent.mp4", smooth_frames())
    for suffix in (".mp4", ".mkv"):
        join_videos([tmp_path / "silent.mp4"], tmp_path / f"with{suffix}", sound_from=tmp_path / "sound.mp4")
        assert "Audio: aac" in streams(tmp_path / f"with{suffix}")
    join_videos([tmp_path / "silent.mp4"], tmp_path / "without.mp4", sound_from=tmp_path / "silent.mp4")
    assert "Audio" not in streams(tmp_path / "without.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("fps", [24.0, 30000 / 1001])
def test_joined_videos_are_the_whole(tmp_path, suffix, fps):
    frames, folder = smooth_frames(11), tmp_path / "it's a folder"
    folder.mkdir()
    for name, some in {"b.mp4": frames[:5], "a.mp4": frames[5:6], "c.mp4": frames[6:]}.items():
        write(folder / name, some, fps, joinable=True)
    join_videos([folder / name for name in ("b.mp4", "a.mp4", "c.mp4")], folder / f"whole{suffix}")
    info, decoded = read_video(folder / f"whole{suffix}")
    again = to_float(torch.stack(list(decoded)))
    assert info.fps == pytest.approx(fps, abs=1e-6)
    assert again.shape == frames.shape
    assert (again - frames).abs().mean(dim=(1, 2, 3)).max() < 0.02
    duration = re.search(r"Duration: 00:00:(\S+),", streams(folder / f"whole{suffix}"))
    assert float(duration[1]) == pytest.approx(11 / fps, abs=0.02)
    assert sorted(path.name for path in folder.iterdir()) == ["a.mp4", "b.mp4", "c.mp4", f"whole{suffix}"]


def test_videos_that_cannot_be_joined_leave_nothing(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"whole\.mp4 cannot be written"):
        join_videos([tmp_path / "broken.mp4"], tmp_path / "whole.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.mp4"]


def test_an_interrupted_video_leaves_nothing_and_keeps_what_was_there(tmp_path):
    def interrupted():
        yield smooth_frames()[0]
        raise KeyboardInterrupt

    (tmp_path / "clip.mp4").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "clip.mp4", interrupted())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"clip.mp4": b"before"}


def test_videos_that_cannot_be_read(tmp_path):
    write(tmp_path / "whole.mp4", smooth_frames(40, 96, 128))
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:200])
    for name in ("noise.mp4", "cut.mp4", "absent.mp4"):
        with pytest.raises(InputError, match=name):
            list(read_video(tmp_path / name)[1])


def test_frames_of_several_sizes_are_refused(tmp_path):
    with pytest.raises(InputError, match="64x48 and goes on with 32x16"):
        write(tmp_path / "clip.mp4", [*smooth_frames(2), *smooth_frames(1, 16, 32)])
    assert list(tmp_path.iterdir()) == []


def test_videos_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"clip\.avi.*\.mp4"):
        write(tmp_path / "clip.avi", [])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*clip\.mp4"):
        write(tmp_path / "file" / "clip.mp4", [])
    with pytest.raises(InputError, match=r"none\.mp4 cannot be written: it has no frames"):
        write(tmp_path / "none.mp4", [])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_images_are_in_natural_order(tmp_path):
    for name in ("frame_10.png", "frame_2.png", "frame_1.jpg"):
        save_image(tmp_path / name, torch.zeros(3, 2, 2))
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in image_files(tmp_path)] == ["frame_1.jpg", "frame_2.png", "frame_10.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        image_files(tmp_path / "empty")
    with pytest.raises(InputError, match=r"there is no folder .*absent"):
        image_files(tmp_path / "absent")


def test_kinds(tmp_path):
    kinds = {"a.PNG": "image", "a.jpeg": "image", "a.mp4": "video", "a.MOV": "video", "frames": "folder"}
    assert {name: media_kind(tmp_path / name) for name in kinds} == kinds
    (tmp_path / "version.1").mkdir()
    assert media_kind(tmp_path / "version.1") == "folder"
    with pytest.raises(InputError, match=r"\.xyz"):
        media_kind(tmp_path / "a.xyz")
