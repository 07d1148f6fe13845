"""Long trainings: interruptions, checkpoints and several processes."""
