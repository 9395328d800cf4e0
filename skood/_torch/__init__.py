"""How networks are run: device, precision, batching, seeding and the training loop."""
