"""Tolerances for scores that differ by rounding alone."""

import torch

from mmctr_pipeline.precision import multiplies_in_bfloat16

SCORE_TOLERANCE = 2e-3 if multiplies_in_bfloat16(torch.device("cpu")) else 1e-6
"""Tolerance for probabilities of one row in batches of different shapes, with precision auto.

Products add up in an order that depends on the shape; in bfloat16 the last digit is 0.4 %.
"""
