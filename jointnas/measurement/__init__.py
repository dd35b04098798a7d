"""What networks and their trainings cost on this device, measured, kept, and estimated for those not measured."""
