# SPDX-License-Identifier: Apache-2.0
"""The capture that the settings of a run name."""

from __future__ import annotations

from gsplat_trainer.config import Config
from harmonizer_ns.captures.capture import Capture, load_capture
from harmonizer_ns.errors import InputError


def load_data(config: Config) -> Capture:
    """Read it, in gsplat's normalised frame where that is asked for.

    Raises:
        InputError: naming what is wrong with it.
    """
    if config.data_dir is None:
        raise InputError("give the capture's folder with --data_dir")
    capture = load_capture(
        config.data_dir,
        factor=config.data_factor,
        spare=config.result_dir,
        form=config.data_format,
        masks=config.mask_dir,
        train_list=config.train_list,
        test_list=config.test_list,
        test_every=config.test_every,
        with_tracks=config.depth_loss,
    )
    return capture.moved(capture.normalization()) if config.normalize_world_space else capture
