# SPDX-License-Identifier: Apache-2.0
"""Progressive distillation (Difix3D+): a model in training is repaired at new views, and learns from the repairs.

It may import the small modules, references and enhancers; the flow reads like the paper in `repairs`.
"""
