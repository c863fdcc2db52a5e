# Placeholder until the package configuration is written.
