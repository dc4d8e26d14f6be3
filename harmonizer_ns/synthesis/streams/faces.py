# SPDX-License-Identifier: Apache-2.0
"""How strongly each part of a face is degraded when details are to be restored: where one looks, most."""

from __future__ import annotations

FACE_STRENGTHS: dict[str, float] = {
    **dict.fromkeys(("mouth", "u_lip", "l_lip", "lips"), 0.9),
    **dict.fromkeys(("l_eye", "r_eye", "eye_g", "eyes"), 0.7),
    "hair": 0.6,
    **dict.fromkeys(("l_brow", "r_brow", "brows"), 0.5),
    "nose": 0.4,
    **dict.fromkeys(("l_ear", "r_ear", "ears"), 0.3),
    "skin": 0.3,
    "neck": 0.2,
}
"""Share of a region that is degraded, by the names of CelebAMask-HQ (Lee et al. 2020), which face parsers use, or by
plain ones; eye_g are glasses. What is not named stays clean."""
