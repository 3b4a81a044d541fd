"""The method: masking, FCMAE, its training as a task, reconstructions, recipes."""
