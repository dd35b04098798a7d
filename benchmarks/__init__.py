"""The measurements behind every figure of the documents: run each as `python -m benchmarks.FOLDER.NAME --help` from a clone."""
