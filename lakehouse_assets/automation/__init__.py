"""Schedules and sensors that belong to no single model."""
