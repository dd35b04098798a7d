"""Running trainings: one persistent worker process a slot, every failure kept to its own trial."""

from jointnas.execution.executor import Event, Executor, Job, LocalExecutor
from jointnas.execution.slots import Slot, available_cores, share_slots

__all__ = ["Event", "Executor", "Job", "LocalExecutor", "Slot", "available_cores", "share_slots"]
