"""Other people's tools: trackers of experiments, Optuna, scikit-learn. Each needs its own package, which jointnas does not install."""
