"""The accuracy predictor."""
