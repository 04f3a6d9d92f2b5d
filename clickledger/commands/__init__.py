"""The commands, one module each; every module has `register(app)`, which adds its commands to the application."""
