"""What a YAML file may say: the schema, how it is read, and which of it has an effect."""
