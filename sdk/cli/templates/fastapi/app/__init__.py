"""The service {{name}}."""
