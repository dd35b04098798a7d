"""Augmentation policies, sampled per image, and their image operations."""

from jointnas.training.augmentation.operations import OPERATIONS, Operation
from jointnas.training.augmentation.policies import Policy, make_policy

__all__ = ["OPERATIONS", "Operation", "Policy", "make_policy"]
