# SPDX-License-Identifier: Apache-2.0
"""Nerfstudio's other commands on a finished run, and its viewer's way of reading outputs."""

import threading

import numpy as np
import pytest
from nerfstudio.scripts.render import DatasetRender
from PIL import Image
from plyfile import PlyData
from runs import run, start, tiny_config

from harmonizer_ns.plugin.cameras import to_nerfstudio
from harmonizer_ns.plugin.models import ENHANCED


@pytest.fixture(scope="module")
def finished(capture, tmp_path_factory):
    return run(tiny_config(capture, tmp_path_factory.mktemp("finished"), final_report=False))


def test_render_writes_both_images(finished, tmp_path):
    DatasetRender(
        load_config=finished.base_dir / "config.yml",
        output_path=tmp_path,
        rendered_output_names=["rgb", ENHANCED],
        split="test",
        image_format="png",
    ).main()
    plain, enhanced = (sorted((tmp_path / "test" / name).glob("*.png")) for name in ("rgb", ENHANCED))
    assert len(plain) == len(enhanced) == 2
    assert any(not np.array_equal(Image.open(a), Image.open(b)) for a, b in zip(plain, enhanced, strict=True))


def test_export_writes_every_gaussian(finished, tmp_path):
    try:
        from nerfstudio.scripts.exporter import ExportGaussianSplat
    except OSError as error:
        pytest.skip(f"nerfstudio's exporter needs open3d's system libraries: {error}")
    ExportGaussianSplat(load_config=finished.base_dir / "config.yml", output_dir=tmp_path).main()
    vertex = PlyData.read(str(tmp_path / "splat.ply"))["vertex"]
    assert vertex.count == finished.pipeline.model.num_points
    np.testing.assert_allclose(vertex["x"], finished.pipeline.model.means[:, 0].detach().numpy(), rtol=1e-6)


def test_viewer_threads_wait_for_the_train_lock_and_the_trainer_does_not(capture, tmp_path):
    trainer = start(tiny_config(capture, tmp_path))
    camera = to_nerfstudio(trainer.pipeline.photos.cameras[0])[0:1]
    trainer.pipeline.eval()
    outputs = trainer.pipeline.model.get_outputs_for_camera(camera)
    finished = threading.Event()

    def read():
        _ = outputs[ENHANCED]
        finished.set()

    with trainer.train_lock:
        viewer = threading.Thread(target=read)
        viewer.start()
        assert not finished.wait(0.3)
        own = trainer.pipeline.model.get_outputs_for_camera(camera)[ENHANCED]
    viewer.join(timeout=30)
    assert finished.is_set()
    assert own.shape == outputs[ENHANCED].shape == (48, 64, 3)
