"""One module for each kind of model, and the modules that prepare their inputs."""
