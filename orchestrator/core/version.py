"""The project's version, as it is recorded in what the project makes; pyproject.toml says the same."""

VERSION = "0.1.0"
