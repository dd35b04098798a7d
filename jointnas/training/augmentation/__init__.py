"""Augmentation policies that draw for each image of a batch, and the image operations they are made of."""

from jointnas.training.augmentation.operations import OPERATIONS, Operation
from jointnas.training.augmentation.policies import Policy, make_policy

__all__ = ["OPERATIONS", "Operation", "Policy", "make_policy"]
