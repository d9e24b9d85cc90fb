"""What a config will do: checked before any tensor is read, then measured."""
