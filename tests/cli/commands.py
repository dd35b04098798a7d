"""The commands and the answers' keys that tests of the command line share."""

from __future__ import annotations

RUN = "runs/digits-resnet9-1"
FIXED = ("width=4", "batch_size=32", "ema=0.0", "gradient=plain", "policy=none")
SMALL = tuple(part for knob in FIXED for part in ("--fix", knob))
SEARCH = (
    "search",
    "-c",
    "macs<1M",
    "--train-steps",
    "20",
    "--rounds",
    "2",
    "--batch",
    "3",
    "--confirm",
    "0",
    "--top",
    "3",
    *SMALL,
)
CANDIDATE = '[architecture]\nnetwork = "resnet9"\nwidth = 4\n[recipe]\nbatch_size = 32\n'
SEARCH_KEYS = {"run", "trials", "failed", "confirmations", "budgets_used", "predictor", "winners"}
WINNER_KEYS = {"rank", "architecture", "recipe", "predicted_accuracy", "std", "accuracy", "macs", "params"}
RETRAINED_KEYS = {
    "rank", "architecture", "recipe", "predicted_accuracy", "test_accuracy", "val_accuracy", "macs", "params",
}  # fmt: skip
