# SPDX-License-Identifier: Apache-2.0
"""A job is one training, judged on photos that it has not seen; its result is a small JSON file named by its settings.

So what is finished is never done twice, whoever asks for it and in which row of which table it is wanted.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from harmonizer_ns import __version__
from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.errors import InputError, first_line
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.oracles import FLAWS, TruthEnhancer
from harmonizer_ns.evaluation.prepared import PreparedScene, folder_of
from harmonizer_ns.evaluation.protocols import Protocol, Run
from harmonizer_ns.evaluation.quality import measure
from harmonizer_ns.files import read_json, write_json
from harmonizer_ns.images import save_image
from harmonizer_ns.progress import duration
from harmonizer_ns.views import ENHANCED, PLAIN, TRUTH, JudgedView
from harmonizer_ns.workers import run_all, run_apart

Image = Literal["rgb", "enhanced"]
"""What the model renders, and what the enhancer makes of that."""
_ROLES: dict[str, str] = {"rgb": PLAIN, "enhanced": ENHANCED, "truth": TRUTH}
"""Under which names results are kept, and whose these are."""
NO_REPAIRS = ("--steps_per_fix", "0")
"""Flags of a training without repairs; what is judged is enhanced all the same."""


Train = Callable[[Sequence[str], Enhancer | None, bool], Iterable[JudgedView]]
"""Runs gsplat_trainer with these arguments, and this enhancer instead of the one that they name; whether the judged
photos train as well. Gives the held-out views."""


@dataclass(frozen=True)
class Job:
    """Says all that a result depends on.

    Args:
        scene: name of a prepared scene.
        digest: of its content.
        steps: of the training.
        seed: of the training.
        options: flags of gsplat_trainer.
        enhancer: name or folder.
        weights: sha256 of its weights.
        flaw: name of the truth's flaw, for an enhancer that knows the truth.
        device: where it trains.
        photos: what trains: the photos that should, or those that are judged as well.
        label: tells people which it is.
        with_pictures: whether pictures are kept.
    """

    scene: str
    digest: str
    steps: int
    seed: int
    options: tuple[str, ...]
    enhancer: str
    weights: str | None
    device: str
    flaw: str | None = None
    photos: Literal["train", "all"] = "train"
    label: str = ""
    with_pictures: bool = False

    def settings(self) -> dict[str, Any]:
        """Give what the result depends on."""
        without = "label", "with_pictures"
        settings = {name: value for name, value in asdict(self).items() if name not in without}
        return {**settings, "options": list(self.options), "version": __version__}

    @property
    def key(self) -> str:
        """The name of its files: the scene's, and the sha256 of its settings."""
        text = json.dumps({**self.settings(), "scene": ""}, sort_keys=True)
        return f"{self.scene}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Outcome:
    """Says how a job ended: seconds, or what went wrong."""

    key: str
    seconds: float = 0.0
    problem: str | None = None


def make_job(
    scene: PreparedScene, protocol: Protocol, run: Run, seed: int, options: Sequence[str], device: str, **special: Any
) -> Job:
    """Plan a training by a protocol, with these flags besides the protocol's."""
    targets = "--targets", protocol.targets, "--num_targets", str(scene.judged)
    rounds = "--fix_start", str(run.fix_start), "--steps_per_fix", str(run.steps_per_fix)
    flags = (*(targets if protocol.targets == "eval" else targets[:2]), *rounds, *protocol.options, *run.options)
    weights = protocol.enhancer.name, protocol.enhancer.sha256
    return Job(scene.name, scene.digest, run.steps, seed, (*flags, *options), *weights, device, **special)


def arguments_of(job: Job, output: Path) -> list[str]:
    """Write the command line of gsplat_trainer for a job.

    Splats begin at the capture's points and are not thinned out unless the job says otherwise; what photos give is
    shared by all jobs.
    """
    return [
        "default",
        *("--data_dir", str(folder_of(output, job.scene)), "--data_format", "nerfstudio", "--data_factor", "1"),
        *("--result_dir", str(_running(output, job)), "--device", job.device, "--enhancer", job.enhancer),
        *("--seeds", "capture", "--opacity_reg", "0", "--geometry_dir", str(output)),
        *("--max_steps", str(job.steps), "--seed", str(job.seed)),
        *("--eval_steps", str(job.steps), "--save_steps", str(job.steps), "--no-save_ply"),
        *("--lpips_net", "none", "--render_traj_path", "none"),
        *job.options,
    ]


def read_result(job: Job, output: Path) -> dict[str, Any] | None:
    """Read the result of a job that is finished, with its pictures where they are wanted; None when it is not.

    Raises:
        InputError: when the file is damaged, or of other settings.
    """
    path = output / "jobs" / f"{job.key}.json"
    if not path.is_file() or (job.with_pictures and not _pictures(output, job).is_dir()):
        return None
    found = read_json(path)
    if found.get("settings") != job.settings() or not isinstance(found.get("views"), list):
        raise InputError(f"{path} is damaged or of other settings; delete it, and the job is done again")
    return found


def run_jobs(
    jobs: Sequence[Job], output: Path, train: Train, networks: Networks, workers: int, ray: bool
) -> Iterator[Outcome]:
    """Do the jobs that are not finished yet, each in a process of its own, or with Ray; one that fails stops no other.

    Args:
        jobs: in any number of copies.
        output: holds the prepared scenes, and receives the results.
        train: can be pickled.
        networks: judge besides PSNR and SSIM.
        workers: jobs at a time.
        ray: give the jobs to a Ray cluster instead, whose machines see the same folder.
    """
    wanted: dict[str, Job] = {}
    for job in jobs:
        if job.key not in wanted or job.with_pictures:
            wanted[job.key] = job
    missing = [job for job in wanted.values() if read_result(job, output) is None]
    do = partial(run_job, output=output.resolve(), train=train, networks=networks)
    outcomes = run_all(do, missing, 1, ray) if ray else run_apart(do, missing, workers, _died)
    print(f"{len(wanted)} jobs, {len(missing)} to do")
    start = time.monotonic()
    with closing(outcomes):
        for number, outcome in enumerate(outcomes, start=1):
            left = (time.monotonic() - start) / number * (len(missing) - number)
            state = f"failed: {outcome.problem}" if outcome.problem else f"{outcome.seconds:.0f} s"
            label = f"[{number}/{len(missing)}] {wanted[outcome.key].label}"
            print(f"{label}: {state}; about {duration(left)} left", flush=True)
            yield outcome


def _died(job: Job, exit_code: int | None) -> Outcome:
    return Outcome(job.key, problem=f"its process ended with status {exit_code} (out of memory?)")


def run_job(job: Job, output: Path, train: Train, networks: Networks) -> Outcome:
    """Train and judge; what is printed goes to ``logs``. Nothing is raised."""
    results, log = _running(output, job), output / "logs" / f"{job.key}.log"
    start = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(results, ignore_errors=True)
    try:
        with log.open("w", encoding="utf-8") as stream, redirect_stdout(stream), redirect_stderr(stream):
            try:
                views = _judged(job, output, train, networks)
            except BaseException:
                traceback.print_exc()
                raise
    except (Exception, SystemExit) as error:
        return Outcome(job.key, problem=f"{first_line(error)} ({log})")
    finally:
        shutil.rmtree(results, ignore_errors=True)
    seconds = time.monotonic() - start
    write_json(
        output / "jobs" / f"{job.key}.json",
        {"settings": job.settings(), "seconds": round(seconds, 1), "views": views},
    )
    return Outcome(job.key, seconds)


def _running(output: Path, job: Job) -> Path:
    return output / "running" / job.key


def _judged(job: Job, output: Path, train: Train, networks: Networks) -> list[dict[str, Any]]:
    """Train, then measure every judged view."""
    scene = folder_of(output, job.scene)
    enhancer = None if job.flaw is None else TruthEnhancer(load_capture(scene), FLAWS[job.flaw])
    rows, pictures = [], _pictures(output, job)
    for view in train(arguments_of(job, output), enhancer, job.photos == "all"):
        rows.append(_measured(view, networks))
        if job.with_pictures:
            _save(pictures, view)
    return rows


def _measured(view: JudgedView, networks: Networks) -> dict[str, Any]:
    plain, enhanced = view.pictures[PLAIN], view.pictures.get(ENHANCED)
    row: dict[str, Any] = {"name": view.shows, "rgb": measure(plain, view.truth, networks, mask=view.mask)}
    if enhanced is not None:
        row["enhanced"] = measure(enhanced, view.truth, networks, plain, view.mask)
    return row


def _pictures(output: Path, job: Job) -> Path:
    return output / "pictures" / job.key


def _save(folder: Path, view: JudgedView) -> None:
    for kind, role in _ROLES.items():
        if role in view.all_pictures:
            save_image(folder / f"{Path(view.shows).stem}_{kind}.png", view.all_pictures[role])


def pictures_of(job: Job, output: Path, view: str) -> dict[str, Path]:
    """Find the pictures that a job kept of a view: rgb, enhanced, truth."""
    files = {kind: _pictures(output, job) / f"{Path(view).stem}_{kind}.png" for kind in _ROLES}
    return {kind: path for kind, path in files.items() if path.is_file()}
