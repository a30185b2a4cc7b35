"""What a user may set: its schema, and how YAML files, profiles and overrides become one checked spec."""
