# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harmonizer_ns.cli.synthesize import main
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image
from harmonizer_ns.pairs import read_pairs
from harmonizer_ns.synthesis.recipes import items
from harmonizer_ns.training.pairs import check_pairs

RECIPE = """
name: mix
seed: {seed}
test_fraction: 0.4
streams:
  - {{kind: isp, count: 3, clip: 3, scenes: [a, b, c]}}
  - {{kind: regions, name: detail, count: 4, photos: [photos]}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for folder, count in (("a", 4), ("b", 5), ("c", 3), ("photos", 3)):
        for i in range(count):
            coarse = torch.rand(3, 4, 5, generator=generator)
            save_image(tmp_path / folder / f"{i}.png", coarse.repeat_interleave(8, 1).repeat_interleave(8, 2))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(seed=1))
    return path


def run(recipe: Path, output: Path, *more: str) -> dict[str, bytes]:
    main([str(recipe), "--output", str(output), *more])
    return {str(file.relative_to(output)): file.read_bytes() for file in output.rglob("*") if file.is_file()}


def test_pairs_are_whole_and_byte_identical_on_any_number_of_processes(recipe, tmp_path):
    first = run(recipe, tmp_path / "x")
    assert first == run(recipe, tmp_path / "y", "--workers", "2")
    pairs = read_pairs(tmp_path / "x" / "pairs.json")
    check_pairs([pairs.train + pairs.test])
    assert len(pairs.train) + len(pairs.test) == 3 * 3 + 4
    assert {"sheet_isp.png", "sheet_detail.png"} <= first.keys()


def test_another_seed_makes_other_pairs(recipe, tmp_path):
    first = run(recipe, tmp_path / "x")
    recipe.write_text(RECIPE.format(seed=2))
    assert first["isp/00000/000_image.png"] != run(recipe, tmp_path / "y")["isp/00000/000_image.png"]


def test_a_copied_photo_never_crosses_the_split(recipe, tmp_path):
    for i in range(3):  # the photos are frames of a, under other names
        (tmp_path / "photos" / f"{i}.png").write_bytes((tmp_path / "a" / f"{i}.png").read_bytes())
    for seed in range(4):
        recipe.write_text(RECIPE.format(seed=seed))
        run(recipe, tmp_path / f"o{seed}")
        pairs = read_pairs(tmp_path / f"o{seed}" / "pairs.json")
        contents = [{pair.target_image.read_bytes() for pair in split} for split in (pairs.train, pairs.test)]
        assert pairs.train
        assert pairs.test
        assert not contents[0] & contents[1]


def test_a_crash_loses_at_most_the_item_in_progress(recipe, tmp_path, monkeypatch):
    whole = run(recipe, tmp_path / "x")
    save, calls = items.save_image, []

    def crash(*arguments):
        calls.append(1)
        if len(calls) == 14:  # within the second clip
            raise KeyboardInterrupt
        save(*arguments)

    monkeypatch.setattr(items, "save_image", crash)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "y")
    assert [path.name for path in (tmp_path / "y" / "isp").iterdir()] == ["00000"]
    before = (tmp_path / "y" / "isp" / "00000" / "item.json").stat().st_mtime_ns
    monkeypatch.setattr(items, "save_image", save)
    assert run(recipe, tmp_path / "y") == whole
    assert (tmp_path / "y" / "isp" / "00000" / "item.json").stat().st_mtime_ns == before


def test_a_pair_is_rebuilt_from_its_provenance(recipe, tmp_path):
    whole = run(recipe, tmp_path / "x")
    arguments = ["--rebuild", "isp/00001/002", "--pairs", str(tmp_path / "x" / "pairs.json")]
    again = run(recipe, tmp_path / "z", *arguments)
    assert again == {name: data for name, data in whole.items() if name.startswith("isp/00001/")}


def test_broken_images_and_short_scenes_are_named_and_the_others_made(recipe, tmp_path):
    (tmp_path / "photos" / "1.png").write_bytes(b"no image")
    (tmp_path / "c" / "0.png").unlink()
    with pytest.raises(InputError, match=r"(?s)c has 2 images.*photos/1\.png"):
        run(recipe, tmp_path / "x")
    pairs = read_pairs(tmp_path / "x" / "pairs.json")
    assert len(pairs.train) + len(pairs.test) >= 2 * 3 + 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("streams: []", "list of streams"),
        ("streams: [{kind: magic}]", "magic"),
        ("streams: [{kind: isp, scenes: [a], cuont: 3}]", "cuont"),
        ("streams: [{kind: isp, scenes: [a], settings: {exposure: [1, -1]}}]", "exposure"),
        ("streams: [{kind: isp, scenes: [a], settings: {gamma: much}}]", "gamma"),
        ("seed: x\nstreams: [{kind: isp, scenes: [a]}]", "seed"),
    ],
)
def test_bad_recipes_are_refused_by_name(recipe, tmp_path, text, named):
    recipe.write_text(text)
    with pytest.raises(InputError, match=named):
        run(recipe, tmp_path / "x")


def test_ray_that_is_not_there_is_told(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"harmonizer-ns\[ray\]"):
        run(recipe, tmp_path / "x", "--ray")
